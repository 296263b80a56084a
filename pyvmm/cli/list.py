# SPDX-License-Identifier: Apache-2.0
"""`pyvmm list`: the VMs of this user that run now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.launch import human

if TYPE_CHECKING:
    import argparse

HEAD = ("NAME:", "PID", "STATE:", "CPUS", "MEMORY", "UP", "KERNEL:")


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    vms.add_parser(
        sub,
        "list",
        "list the running VMs",
        "Those of this user, whose control sockets are in the runtime directory; sockets of dead ones are removed.",
    )


def row(info: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    if "error" in info:
        return [info["name"], "-", info["state"], "-", "-", "-", human.printable(info["error"])]
    return [
        info["name"],
        str(info["pid"]),
        info["state"],
        str(info["cpus"]),
        f"{info['memory'] >> 20}M",
        human.duration(info["seconds"]),
        human.printable(info["kernel"] or "-"),
    ]


def main(args: argparse.Namespace) -> int:
    """Print the list; status 0 also if it is empty."""
    from pyvmm.control.client import running

    found = running()
    return vms.say(found, as_json=args.json, text=human.table(HEAD, [row(info) for info in found]))
