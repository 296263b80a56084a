# SPDX-License-Identifier: Apache-2.0
"""`pyvmm resume`: let a paused VM go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms

if TYPE_CHECKING:
    import argparse


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(sub, "resume", "let a paused VM go on", vms.ONLY)
    vms.add_vm(parser)


def main(args: argparse.Namespace) -> int:
    """Say nothing if it worked."""
    return vms.ask(args.vm, lambda client: vms.say(client.call("resume"), as_json=args.json))
