# SPDX-License-Identifier: Apache-2.0
"""`pyvmm bench`: measures pyvmm against its peers, here or in the lab, and makes one report of it."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvmm.errors import ConfigError
from pyvmm.guest.cache import DEFAULT_LINUX
from pyvmm.launch.number import Duration, Whole

if TYPE_CHECKING:
    import argparse


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = sub.add_parser(
        "bench",
        help="measure pyvmm against its peers, and make one report of it",
        description="Runs suites of benchmarks, those that boot Linux in the lab where this machine's KVM cannot, and "
        "writes all samples as JSON, a page with tables and pictures (report.html) and a summary in Markdown. "
        "Without SUITE it says which there are.",
    )
    add = parser.add_argument
    add("suites", metavar="SUITE", nargs="*", help="one or more, or all")
    add("--out", metavar="FOLDER", help="where to (bench/out/DATE)")
    add("--quick", action="store_true", help="few rounds, little work in each")
    add(
        "--rounds",
        type=Whole("number of rounds"),
        metavar="N",
        help="at most so many; each suite has its own idea",
    )
    add(
        "--budget",
        type=Duration("minutes", 1e6),
        metavar="MINUTES",
        help="of each suite: no new round after so long",
    )
    add("--linux", default=DEFAULT_LINUX, help="which guest (%(default)s)")
    add("--lab", action="store_true", help="everything in the lab")
    add("--icount", action="store_true", help="the same, with time counted in instructions")
    add(
        "--sweep",
        metavar="OPTION=V1,V2",
        action="append",
        default=[],
        help="run each suite with each value of an option of its own; repeat for more options",
    )
    add(
        "--repeat",
        type=Whole("number of runs"),
        default=1,
        metavar="N",
        help="run each so often, and pool the ratios",
    )
    add("--scheduler", metavar="ADDRESS", help="spread the runs over the workers of a Dask cluster")
    add(
        "--cell-timeout",
        type=Duration(),
        default=7200.0,
        metavar="S",
        help="give up a run of a sweep after S seconds (%(default)g)",
    )
    add("--compare", metavar="OLD", help="an earlier FOLDER; the status is 1 if a figure got worse")
    add("--report", metavar="FOLDER", help="measure nothing: make the report of this one again")


def main(args: argparse.Namespace) -> int:
    """Measure, report, and return 1 if a suite failed or a figure got worse."""
    for name in ("out", "compare", "report"):
        given = getattr(args, name)
        setattr(args, name, Path(given).absolute() if given else None)
    if args.compare and args.out and args.compare.resolve() == args.out.resolve():
        raise ConfigError(f"--out {args.out}: --compare reads the same folder; nothing was changed")
    if args.report and args.suites:
        raise ConfigError("--report measures nothing; leave SUITE away, or --report")
    enter_source_tree()
    status: int = importlib.import_module("bench.command").main(args)
    return status


def enter_source_tree() -> None:
    """Enter the source tree.

    Raise ConfigError where the benchmarks, which are not installed, are not beside the package.
    """
    import pyvmm

    root = Path(pyvmm.__file__).resolve().parents[1]
    if not (root / "bench" / "suites").exists():
        raise ConfigError(
            "the benchmarks are in pyvmm's source tree: get it, and run `make bench` in it"
        )
    os.chdir(root)
    sys.path.insert(0, str(root))
