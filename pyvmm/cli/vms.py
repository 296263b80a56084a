# SPDX-License-Identifier: Apache-2.0
"""The parts that commands for running VMs share: finding one, saying what it refused, tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm.errors import GuestDataError, LimitError, StateError, SymcallError
from pyvmm.launch import human, status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pyvmm.control.client import Client

#: The VM answered, and its answer is no.
REFUSED = 1
ONLY = "Without NAME the only VM there is."


def add_parser(
    sub: argparse._SubParsersAction[Any], name: str, text: str, more: str = ""
) -> argparse.ArgumentParser:
    """Return a command's parser with the options that all of them have."""
    parser: argparse.ArgumentParser = sub.add_parser(name, help=text, description=more or None)
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    return parser


def add_vm(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add the VM's name as the next argument."""
    parser.add_argument(
        "vm",
        metavar="NAME",
        nargs=None if required else "?",
        help="of a VM, as pyvmm list shows it" + ("" if required else " (the only one)"),
    )


def ask(name: str | None, question: Callable[[Client], int]) -> int:
    """Return the status of what `question` does with a connection to that VM; `REFUSED` if the VM
    or its guest refuses.
    """
    from pyvmm.control.client import connect

    with connect(name) as client:
        try:
            return question(client)
        except (StateError, SymcallError, GuestDataError, LimitError) as error:
            print(f"pyvmm: {client.name}: {error}", file=sys.stderr)
            return REFUSED


def say(answer: Any, *, as_json: bool, text: str = "") -> int:
    """Print an answer one way or the other; the status for that it came."""
    if as_json:
        import json

        print(json.dumps(answer, indent=2))
    elif text:
        print(text)
    return status.OK


def complete(client: Client) -> int:
    """Return the status for an answer that was printed: `REFUSED`, with the reason on stderr, if it
    was not all.
    """
    if client.cut is None:
        return status.OK
    print(f"pyvmm: {client.name}: {human.printable(client.cut)}", file=sys.stderr)
    return REFUSED
