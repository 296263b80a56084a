# SPDX-License-Identifier: Apache-2.0
"""`pyvmm info`: one running VM, its machine, its exits and symcalls so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.launch import human

if TYPE_CHECKING:
    import argparse

    from pyvmm.control.client import Client


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    vms.add_vm(
        vms.add_parser(
            sub,
            "info",
            "say what a running VM is and has done",
            vms.ONLY,
        )
    )


def text(info: dict[str, Any]) -> str:
    """Write it for people: a name and a value a line, zero and none left out."""
    lines = []
    for name, value in info.items():
        if isinstance(value, dict):
            lines += [f"{name:10}", *(f"  {key:20} {n}" for key, n in value.items() if n)]
        elif isinstance(value, list):
            lines.append(f"{name:10} {' '.join(map(str, value))}")
        elif value is None:
            continue
        elif name == "memory":
            lines.append(f"{name:10} {value >> 20} MiB")
        elif name == "seconds":
            lines.append(f"{name:10} {value:.1f}")
        else:
            lines.append(f"{name:10} {human.printable(value)}")
    return "\n".join(line.rstrip() for line in lines)


def main(args: argparse.Namespace) -> int:
    """Print it."""

    def question(client: Client) -> int:
        info = client.call("info")
        return vms.say(info, as_json=args.json, text=text(info))

    return vms.ask(args.vm, question)
