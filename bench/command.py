# SPDX-License-Identifier: Apache-2.0
"""The work of `pyvmm bench`: it measures suites or the cells of a sweep, makes the report, compares
with an earlier run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import run, suites
from bench.report import compare, page, record
from bench.sweep import matrix
from bench.sweep import sweep as sweeps
from bench.sweep.sweep import Sweep
from pyvmm.errors import ConfigError

ALL = "all"
#: A suite did not end well, or a figure got worse.
FAILED = 1
#: Options that all cells of a sweep have in common.
COMMON = ("quick", "rounds", "budget", "linux", "lab", "icount")


def main(args: argparse.Namespace) -> int:
    """Do what the options of `pyvmm bench` say, and return the status of the command.

    `out`, `compare` and `report` are paths or None. Raise ConfigError for what cannot be measured.
    """
    if args.report:
        return report(args.report, args.compare)
    if not args.suites:
        print("\n".join(f"{name:10} {suite.text}" for name, suite in suites.every().items()))
        return 0
    names = chosen(args.suites, list(suites.every()))
    folder = args.out or Path(time.strftime("bench/out/%Y-%m-%d-%H%M%S")).absolute()
    if args.sweep or args.repeat != 1 or args.scheduler:
        return sweep(args, names, folder)
    folder.mkdir(parents=True, exist_ok=True)
    failed = {
        name: f"failed; what it said is in {folder / name}.txt"
        for name in run.measure(args, names, folder)
    }
    return concluded(args, folder, len(names), failed)


def sweep(args: argparse.Namespace, names: Sequence[str], folder: Path) -> int:
    """Measure each cell of a sweep, here or on a cluster, and report those that ended well."""
    cells = matrix.cells(names, matrix.axes(args.sweep), args.repeat)
    common = {name: getattr(args, name) for name in COMMON}
    folder.mkdir(parents=True, exist_ok=True)
    failed = sweeps.run(Sweep(cells, common, folder, args.cell_timeout, args.scheduler or ""))
    return concluded(args, folder, len(cells), failed)


def concluded(args: argparse.Namespace, folder: Path, count: int, failed: Mapping[str, str]) -> int:
    """Report what ended well of so many, and say what failed and why."""
    worse = report(folder, args.compare) if len(failed) < count else FAILED
    for name, reason in failed.items():
        print(f"bench: {name} {reason}", file=sys.stderr)
    return FAILED if failed else worse


def chosen(given: Sequence[str], known: list[str]) -> list[str]:
    """Return the suites that are meant, in their own order. Raise ConfigError for what is none."""
    unknown = set(given) - {*known, ALL}
    if unknown:
        raise ConfigError(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [name for name in known if ALL in given or name in given]


def report(folder: Path, old: Path | None) -> int:
    """Make the page, compare with an earlier run; return 1 if a figure got worse."""
    print(f"\n{page.write(folder)}")
    if old is None:
        return 0
    return FAILED if got_worse(folder, old) else 0


def got_worse(folder: Path, old: Path) -> bool:
    """Compare each record that both folders have. Raise ConfigError if there is none."""
    pairs = [
        (path, folder / path.name)
        for path in sorted(old.glob("*.json"))
        if (folder / path.name).exists()
    ]
    if not pairs:
        raise ConfigError(f"{old} has no record of a suite that {folder} has")
    worse = False
    for before, after in pairs:
        print(f"\n== {after.stem}, against {before}")
        made = compare.compare(record.load(before), record.load(after))
        worse |= compare.got_worse(made)
    return worse
