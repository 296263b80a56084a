# SPDX-License-Identifier: Apache-2.0
"""`pyvmm lab`: run a command where KVM has emulated SVM or VT-x, with this machine's files."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from pyvmm.errors import ConfigError
from pyvmm.launch.number import Duration, Whole

if TYPE_CHECKING:
    import argparse
    from types import FrameType

LAB_FAILED = 125
TIMED_OUT = 124
INTERRUPTED = 130
EPILOG = """\
exit status: that of COMMAND, 128+n if signal n ended it, 124 on timeout, 125 if the lab failed.
At a terminal, COMMAND gets one; three times Ctrl-] ends the lab.
QEMU is $PYVMM_QEMU, else qemu-system-x86_64 of the path; where that is older than 8.1, one from Debian's backports,
which is fetched into the cache once.
With --arch vmx Bochs emulates VT-x. COMMAND then has a copy of some files, and what it writes is gone with it.
"""


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    import argparse

    parser = sub.add_parser(
        "lab",
        help="run a command inside an outer Linux with emulated SVM or VT-x",
        usage="pyvmm lab [OPTIONS] -- COMMAND [ARG...]",
        description="Runs COMMAND as root in a Linux with kvm_amd on a CPU with SVM that QEMU emulates. It sees "
        "this machine's files and runs in the same folder. Writes last in the project's folder and in each --share.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--arch", choices=("svm", "vmx"), default="svm", help="what is emulated (%(default)s)")
    add(
        "--cpus",
        metavar="N",
        type=Whole("number of CPUs"),
        help="CPUs of the outer machine (2; with vmx 1)",
    )
    add("--memory", metavar="SIZE", help="its memory, as in 8G (4G; with vmx 2G)")
    add("--no-npt", action="store_true", help="KVM in the lab uses shadow paging")
    add("--icount", action="store_true", help="its time is what its CPUs have executed: slower")
    add(
        "--timeout",
        metavar="S",
        type=Duration(),
        help="end the command after S seconds, with status 124",
    )
    add("--share", metavar="DIR", action="append", default=[], help="another writable directory")
    add("--pack", metavar="PATH", action="append", default=[], help="vmx: what else to take along")
    add(
        "--env", metavar="NAME[=V]", action="append", default=[], help="pass on, or set, a variable"
    )
    add("--log", metavar="FILE", help="write the outer machine's console there")
    add("words", metavar="COMMAND", nargs=argparse.REMAINDER)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its status, or one of this module's."""
    from pyvmm import lab
    from pyvmm.errors import HostError

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words or not words[0]:
        raise ConfigError("no command: pyvmm lab [OPTIONS] -- COMMAND [ARG...]")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        return lab.run(
            words,
            arch=args.arch,
            cpus=args.cpus,
            memory=args.memory,
            npt=not args.no_npt,
            icount=args.icount,
            timeout=args.timeout,
            share=args.share,
            pack=args.pack,
            log=args.log,
            env=variables(args.env),
        )
    except lab.LabTimeout as error:
        complain(error)
        return TIMED_OUT
    except HostError as error:
        complain(error)
        return LAB_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def variables(given: list[str]) -> dict[str, str]:
    """Return the variables that --env adds: NAME=VALUE as it is, NAME with the value it has here,
    if any.
    """
    result = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise ConfigError(f"--env {text!r} names no variable")
        if equals:
            result[name] = value
        elif name in os.environ:
            result[name] = os.environ[name]
    return result


def leave(number: int, at: FrameType | None) -> NoReturn:
    """End the program on a signal the orderly way: the machine is ended, the terminal restored."""
    sys.exit(128 + number)


def complain(error: Exception) -> None:
    """Say what was wrong."""
    print(f"pyvmm lab: {error}", file=sys.stderr)
