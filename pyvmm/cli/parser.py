# SPDX-License-Identifier: Apache-2.0
"""The parsers of the commands: what they take, and how they end."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pyvmm.launch import status
from pyvmm.launch.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


class CommandParser(Parser):
    """Ends with pyvmm's own status for a mistake."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and end the program."""
        self.print_usage(sys.stderr)
        self.exit(status.USAGE, f"pyvmm: {message}\n")


def parse(module: Any, name: str, words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a subcommand, whose module is `pyvmm.cli.<name>`; end the program if
    they are wrong.
    """
    parser = CommandParser(prog="pyvmm")
    sub = parser.add_subparsers(dest="command", required=True)
    module.add_parser(sub)
    _add_verbose(sub.choices[name])
    if name == "run":
        return _parse_run(parser, sub.choices[name], list(words))
    return parser.parse_args([name, *words])


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add the option of all commands; that of run says more."""
    if not any("--verbose" in action.option_strings for action in parser._actions):
        parser.add_argument(
            "--verbose",
            action="store_true",
            help="where in pyvmm it failed, for an error of its own",
        )


def _parse_run(
    parser: argparse.ArgumentParser, of_run: argparse.ArgumentParser, words: list[str]
) -> argparse.Namespace:
    """Take as a COMMAND only what comes after `--`: else its options would be taken for ours."""
    end = words.index("--") if "--" in words else len(words)
    options = words[:end]
    before = before_stray(of_run, options)
    args, unknown = parser.parse_known_args(["run", *options[:before]])
    if unknown:
        of_run.error(f"there is no option {unknown[0]}")
    if before < end:
        import shlex

        meant = shlex.join(options[before:])
        of_run.error(f"a COMMAND for the guest comes after --, as in: pyvmm run -- {meant}")
    args.command = words[end + 1 :]
    return args


def before_stray(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Count the words before the first that is neither an option nor the value of one."""
    takes_value = {
        name: action.nargs != 0 for action in parser._actions for name in action.option_strings
    }
    at = 0
    while at < len(words) and words[at][:1] == "-" and words[at] != "-":
        at += 1 + _wants_next(takes_value, words[at])
    return min(at, len(words))


def _wants_next(takes_value: dict[str, bool], word: str) -> bool:
    """Say whether the value of an option is the word after it: -m 1G, -vm 1G, not -m1G,
    --memory=1G.
    """
    if word.startswith("--"):
        return takes_value.get(word, False)
    for place, letter in enumerate(word[1:], 2):
        if takes_value.get(f"-{letter}", True):
            return place == len(word) and f"-{letter}" in takes_value
    return False
