# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: `python -m bench SUITE`.

Each measures all its subjects in one run and writes JSON beside its table.
"""

from __future__ import annotations

import sys

from bench import options, suites
from bench.report import compare
from pyvmm.errors import Error
from pyvmm.launch import status
from pyvmm.launch.parser import Parser

#: Commands that measure nothing.
OTHERS = {"compare": compare}


def main() -> int:
    parser = Parser(prog="python -m bench", description=__doc__)
    sub = parser.add_subparsers(dest="suite", required=True)
    for name, suite in suites.every().items():
        suite.add_options(sub.add_parser(name, help=suite.text))
    for name, other in OTHERS.items():
        other.add_options(sub.add_parser(name, help=other.TEXT))
    args = parser.parse_args()
    try:
        options.check(args)
        if args.suite in OTHERS:
            OTHERS[args.suite].main(args)
        else:
            suites.every()[args.suite].run(args.suite, args)
    except Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return status.of_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
