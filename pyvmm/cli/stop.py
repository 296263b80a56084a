# SPDX-License-Identifier: Apache-2.0
"""`pyvmm stop`: end a running VM, or ask its guest to shut down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.errors import StateError

if TYPE_CHECKING:
    import argparse

    from pyvmm.control.client import Client


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(
        sub,
        "stop",
        "end a running VM, or ask its guest to shut down",
        "Without NAME the only VM there is. The guest notices nothing and its pyvmm run ends with status 121; comes "
        "back when the VM is gone.",
    )
    parser.add_argument(
        "--power-button",
        action="store_true",
        help="press the power button and leave the rest to the guest; comes back at once",
    )
    vms.add_vm(parser)


def main(args: argparse.Namespace) -> int:
    """Say nothing if it worked."""

    def question(client: Client) -> int:
        if args.power_button:
            answer = client.call("power-button")
            if not answer["pressed"]:
                raise StateError(
                    "the guest does not listen to the power button; pyvmm stop ends it"
                )
        else:
            answer = client.call("stop")
            client.wait_gone()
        return vms.say(answer, as_json=args.json)

    return vms.ask(args.vm, question)
