# SPDX-License-Identifier: Apache-2.0
"""Options that all suites have: how long, how often, where to."""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

from bench.rounds import Plan
from pyvmm.errors import ConfigError


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
    """Make the plan that the options ask for: `rounds` and `quick` are the suite's own ideas of how
    many.
    """
    return Plan(
        rounds=args.rounds or (quick if args.quick else rounds),
        base=base,
        budget=math.inf if args.budget is None else args.budget * 60,
        seed=random.randrange(1 << 32) if args.seed is None else args.seed,
    )


def check(args: argparse.Namespace) -> None:
    """Find out, before hours of measuring, that what comes of it can be written and overwrites
    nothing that is read.

    Ends the program where a picture is wanted that cannot be made. Raise ConfigError for a file.
    """
    from pyvmm import logbars, outfile

    if getattr(args, "plot", None) and not logbars.available():
        raise SystemExit("bench: --plot wants matplotlib: pip install 'pyvmm-kvm[bench]'")
    named = {f"--{name}": getattr(args, name, None) for name in ("json", "plot")}
    seen = {Path(getattr(args, name)).resolve() for name in ("old", "new") if hasattr(args, name)}
    for option, name in named.items():
        if not name:
            continue
        path = Path(name)
        if path.resolve() in seen:
            raise ConfigError(f"{option} {name}: the same file is named twice; nothing was changed")
        seen.add(path.resolve())
        path.parent.mkdir(parents=True, exist_ok=True)
        outfile.check(option, name)
