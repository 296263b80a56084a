# SPDX-License-Identifier: Apache-2.0
"""`pyvmm demo`: boots a Linux guest, and shows what SwapBypass does for a program short of memory.

Where the project's kernel was never built, the guest has Debian's, with the guest driver as a
module.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from pyvmm import outfile
from pyvmm.demo.prepare import ensure_guest
from pyvmm.guest import cache, named
from pyvmm.launch import status

if TYPE_CHECKING:
    import argparse

TIER = cache.stock_name(cache.DEFAULT_LINUX, symbiotic=True)
GUEST_SAYS = """
echo; echo "Hello from Linux $(uname -r), $(nproc) CPUs:"
grep -m1 'model name' /proc/cpuinfo
free -m
ls /dev/hvc0 /dev/hwrng /dev/vda 2>/dev/null
dmesg | grep -i -m3 'kvm\\|hypervisor'
"""


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = sub.add_parser("demo", help="boot a Linux guest and show what happened")
    parser.add_argument(
        "--linux",
        metavar="NAME",
        help=f"which guest: {cache.DEFAULT_LINUX} has SwapBypass in its fault path, and takes minutes to compile; "
        f"{TIER} is Debian's kernel with a module (the first if it was built, else the second)",
    )
    parser.add_argument(
        "--plot", metavar="FILE", default="pyvmm-demo.png", help="the picture (%(default)s)"
    )
    parser.add_argument("--boot", action="store_true", help="only boot, without the part on memory")
    parser.add_argument("--inside", action="store_true", help="do not enter the lab")


def run_arguments(linux: str) -> list[str]:
    """Return the `pyvmm run` of the demonstration: the kernel's own messages, then a few words by
    the guest.
    """
    return [
        "run", "--linux", linux, "-m", "256M", "--console", "serial", "--summary", "--timeout", "240", "-v",
        "--", "sh", "-c", GUEST_SAYS,
    ]  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Boot on /dev/kvm where that can run Linux, else in the lab, and say which and why."""
    from pyvmm.probe import probe

    if not args.boot:
        outfile.check("--plot", args.plot)
    args.linux = args.linux or named.default_name()
    found = probe()
    if found.boots_linux:
        print(f"demo: {found.verdict}; booting directly", file=sys.stderr)
        return here(args)
    print(f"demo: {found.verdict}", file=sys.stderr)
    if args.inside:
        return status.HOST
    print(
        "demo: booting inside the lab: an outer Linux with kvm_amd on emulated SVM", file=sys.stderr
    )
    ensure_guest(args.linux)
    from pyvmm import lab

    command = [sys.executable, "-m", "pyvmm", "demo", "--inside", "--linux", args.linux]
    command += ["--plot", args.plot, *(["--boot"] if args.boot else [])]
    return lab.run(command, env=_env())


def here(args: argparse.Namespace) -> int:
    """Show the boot, then the guests that swap, on this machine's KVM."""
    from pyvmm.cli.main import main as pyvmm

    ensure_guest(args.linux)
    guest, tier = named.find_guest(args.linux), args.linux.endswith(cache.SYMBIOTIC)
    if tier:
        print(f"demo: this is {named.describe(guest)}", file=sys.stderr, flush=True)
    code = pyvmm(run_arguments(args.linux))
    if code or args.boot:
        return code
    from pyvmm.demo import swapdemo

    return status.OK if swapdemo.show(guest, args.plot, tier=tier) else status.HOST


def _env() -> dict[str, str]:
    return {name: os.environ[name] for name in ("TERM",) if name in os.environ}
