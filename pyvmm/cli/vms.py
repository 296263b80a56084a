# SPDX-License-Identifier: Apache-2.0
"""What the commands that speak to running VMs share: finding one, saying what it refused, tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm.cli import status
from pyvmm.errors import GuestDataError, LimitError, StateError, SymcallError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from pyvmm.control.client import Client

#: The VM answered, and its answer is no.
REFUSED = 1
ONLY = "Without NAME the only VM there is."


def add_parser(
    sub: argparse._SubParsersAction[Any], name: str, text: str, more: str = ""
) -> argparse.ArgumentParser:
    """A command's parser with the options that all of them have."""
    parser: argparse.ArgumentParser = sub.add_parser(name, help=text, description=more or None)
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    return parser


def add_vm(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The VM's name as the next argument."""
    parser.add_argument(
        "vm",
        metavar="NAME",
        nargs=None if required else "?",
        help="of a VM, as pyvmm list shows it" + ("" if required else " (the only one)"),
    )


def ask(name: str | None, question: Callable[[Client], int]) -> int:
    """The status of what `question` does with a connection to that VM; `REFUSED` if the VM or its guest refuses."""
    from pyvmm.control.client import connect

    with connect(name) as client:
        try:
            return question(client)
        except (StateError, SymcallError, GuestDataError, LimitError) as error:
            print(f"pyvmm: {client.name}: {error}", file=sys.stderr)
            return REFUSED


def say(answer: Any, *, as_json: bool, text: str = "") -> int:
    """Prints an answer one way or the other; the status for that it came."""
    if as_json:
        import json

        print(json.dumps(answer, indent=2))
    elif text:
        print(text)
    return status.OK


def complete(client: Client) -> int:
    """The status for an answer that was printed: `REFUSED`, with the reason on stderr, if it was not all."""
    if client.cut is None:
        return status.OK
    print(f"pyvmm: {client.name}: {printable(client.cut)}", file=sys.stderr)
    return REFUSED


def printable(text: object) -> str:
    """Text of a guest's without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their names; one whose name ends with a colon, which is left away, begins at the left."""
    left = [name.endswith(":") for name in head]
    lines = [[name.rstrip(":") for name in head], *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at_left else cell.rjust(width)
            for cell, width, at_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def amount(size: int) -> str:
    """Bytes as 12 KiB, 3.4 MiB, 1.5 GiB."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB"


def duration(seconds: float) -> str:
    """As 12.3s, 4m05s, 3h04m, 2d03h."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"
