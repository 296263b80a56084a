# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: `python -m bench SUITE`. Each measures all its subjects in one run and writes JSON beside its table."""

from __future__ import annotations

import importlib
import sys

from bench import options
from bench.suites import SUITES
from pyvmm.errors import Error
from pyvmm.launch import status
from pyvmm.launch.parser import Parser

#: What measures nothing.
OTHERS = {
    "torture": "memory used in every way while it is swapped, checked (on a KVM that boots Linux)",
    "compare": "two runs of one suite: OLD.json NEW.json; ends with 1 if a figure got worse",
}


def module(name: str) -> str:
    """Where its code is."""
    return f"bench.report.{name}" if name == "compare" else f"bench.suites.{name}"


def main() -> int:
    parser = Parser(prog="python -m bench", description=__doc__)
    sub = parser.add_subparsers(dest="suite", required=True)
    texts = {name: suite.text for name, suite in SUITES.items()}
    for name, text in {**texts, **OTHERS}.items():
        suite = sub.add_parser(name, help=text)
        if name in SUITES:
            options.add(suite)
        importlib.import_module(module(name)).add_options(suite)
    args = parser.parse_args()
    try:
        options.check(args)
        importlib.import_module(module(args.suite)).main(args)
    except Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return status.of_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
