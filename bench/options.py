# SPDX-License-Identifier: Apache-2.0
"""Options that all suites have: how long, how often, where to."""

from __future__ import annotations

import argparse
import math
import random

from bench.stats import Plan


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="the record (bench/out/SUITE.json)")
    parser.add_argument("--plot", metavar="FILE", help="a picture, as PNG; wants matplotlib")
    parser.add_argument("--rounds", type=int, help="at most")
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES", help="no new round after so long; at least two"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, little work in each")
    parser.add_argument("--seed", type=int, help="of the order in which subjects take turns")


def plan(args: argparse.Namespace, base: str, *, rounds: int, quick: int) -> Plan:
    """What the options say: `rounds` and `quick` are the suite's own ideas of how many."""
    return Plan(
        rounds=args.rounds or (quick if args.quick else rounds),
        base=base,
        budget=math.inf if args.budget is None else args.budget * 60,
        seed=random.randrange(1 << 32) if args.seed is None else args.seed,
    )


def check_plot(args: argparse.Namespace) -> None:
    """Ends the program where a picture is wanted that cannot be made."""
    from pyvmm.cli import logbars

    if args.plot and not logbars.available():
        raise SystemExit("bench: --plot wants matplotlib: pip install 'pyvmm[bench]'")
