# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run`: boot a guest on this terminal, or run one command in it and return its exit status."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.launch import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

#: The plain cases, without argparse.
quick_parse = options.quick_parse


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = sub.add_parser(
        "run",
        help="boot a guest, or run one command in it",
        usage="pyvmm run [OPTIONS] [-- COMMAND [ARG...]]",
        description="Without -k the project's own guest is booted (pyvmm guest build makes it): with a COMMAND "
        "that runs there and its exit status becomes pyvmm's; without one there is a shell. "
        "ctrl-a x ends the guest.",
    )
    for names, words in options.OPTIONS:
        parser.add_argument(*names, **words)
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="to run in the guest, after --"
    )


def main(args: Any) -> int:
    """Run it; the exit status is one of `pyvmm.launch.status`."""
    if args.no_fork and not args.detach:
        raise ConfigError("--no-fork says how to detach; add --detach")
    if args.detach and not args.dry_run:
        from pyvmm.launch import detach

        return detach.start(args)
    from pyvmm.launch.launch import launch

    return launch(args)
