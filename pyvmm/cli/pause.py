# SPDX-License-Identifier: Apache-2.0
"""`pyvmm pause`: stop the vCPUs of a running VM until pyvmm resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms

if TYPE_CHECKING:
    import argparse


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(
        sub, "pause", "stop the vCPUs of a running VM until pyvmm resume", vms.ONLY
    )
    vms.add_vm(parser)


def main(args: argparse.Namespace) -> int:
    """Say nothing if it worked."""
    return vms.ask(args.vm, lambda client: vms.say(client.call("pause"), as_json=args.json))
