# SPDX-License-Identifier: Apache-2.0
"""`pyvmm drgn`: a debugger over the kernel of a running guest."""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError, Error, SymcallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyvmm.control.client import Client
    from pyvmm.symbiotic.facts import Facts

EPILOG = """\
Without SCRIPT and CODE there is drgn's prompt, or at no terminal standard input is run.
`prog` is the program; at the prompt and in CODE, drgn's names and drgn.helpers.linux are there too.
"""


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    import argparse

    parser = sub.add_parser(
        "drgn",
        help="debug the kernel of a running guest with drgn",
        usage="pyvmm drgn NAME [OPTIONS] [--] [SCRIPT [ARG...]]",
        description="Opens drgn over the memory of the running VM called NAME. Reads only; the guest runs on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("words", metavar="SCRIPT", nargs=argparse.REMAINDER)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--vmlinux", metavar="PATH", help="the running kernel's file with debug information")
    add("-c", dest="code", metavar="CODE", help="run CODE in place of a prompt")


def main(args: argparse.Namespace) -> int:
    """Run the session; a script that exits with a status gives it to this command."""
    from pyvmm.control.client import connect
    from pyvmm.drgn import make_program
    from pyvmm.drgn.physical import RemoteMemory
    from pyvmm.drgn.program import import_drgn

    take_options(args)
    import_drgn()
    with connect(args.name) as client:
        facts = facts_of(client)
        fd, regions = client.memory()
    try:
        prog = make_program(RemoteMemory(fd, regions), facts, args.vmlinux)
        return run_session(prog, args.code, args.words)
    finally:
        os.close(fd)


def run_session(prog: Any, code: str | None, words: list[str]) -> int:
    """Return the status: 1 where the user's code raised, whose traceback is printed as Python does."""
    from pyvmm.drgn import session

    try:
        session.run(prog, code, words)
    except (Error, BrokenPipeError):
        raise
    except Exception:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def take_options(args: argparse.Namespace) -> None:
    """Take the options that stand after NAME: argparse takes everything there for the script's."""
    import argparse

    from pyvmm.launch.parser import Parser

    if args.words[:1] == ["--"]:
        del args.words[0]
    elif args.words and args.words[0].startswith("-"):
        parser = Parser("pyvmm drgn", exit_on_error=False)
        _add_options(parser)
        parser.add_argument("words", nargs=argparse.REMAINDER)
        try:
            parser.parse_args(args.words, args)
        except argparse.ArgumentError as error:
            raise ConfigError(str(error)) from error
        take_options(args)


def facts_of(client: Client) -> Facts | None:
    """Ask the guest's kernel for its facts; return None if it cannot be asked."""
    from pyvmm.drgn.program import UNREACHABLE
    from pyvmm.symbiotic.facts import Facts

    try:
        record = client.call("facts")
    except SymcallError as error:
        if error.reason not in UNREACHABLE:
            raise
        return None
    try:
        return Facts(**record)
    except TypeError as error:
        raise ConfigError(f"{client.name} is run by another version of pyvmm: {error}") from error
