# SPDX-License-Identifier: Apache-2.0
"""Two runs of a benchmark beside each other: which figures are another, beyond chance."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import record, stats
from bench.report.stats import LEVEL, Samples

TEXT = "two runs of one suite: OLD.json NEW.json; ends with 1 if a figure got worse"
#: Less than this is not looked at: a figure is worse from here on.
TOLERANCE = 0.05


class Change(NamedTuple):
    """A figure of a subject in both runs: ratio of the medians, new to old, its 95% interval, and
    the chance of it.
    """

    subject: str
    figure: str
    ratio: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """Figures are times: less is better."""
        if self.p >= LEVEL:
            return "the same"
        if self.ratio > 1 + TOLERANCE:
            return "worse"
        return "better" if self.ratio < 1 - TOLERANCE else "the same"


def common(old: Samples, new: Samples) -> Iterator[tuple[str, str]]:
    """Yield what both runs have measured, in the order of the new one."""
    for subject, figures in new.items():
        for figure, values in figures.items():
            if values and old.get(subject, {}).get(figure):
                yield subject, figure


def changes(old: Samples, new: Samples) -> list[Change]:
    """Return each figure of both."""
    made = []
    for subject, figure in common(old, new):
        mine, base = new[subject][figure], old[subject][figure]
        chance = stats.permutation(mine, base)
        made.append(Change(subject, figure, *stats.ratio(mine, base), chance))
    return made


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what makes the two hard to compare."""
    found = []
    for key in ("suite", "schema", "linux"):
        if old.get(key) != new.get(key):
            found.append(f"{key}: {old.get(key)} and {new.get(key)}")
    for key in ("cpu", "cpus", "kernel", "kvm", "paging", "lab"):
        was, is_now = (side.get("machine", {}).get(key) for side in (old, new))
        if was != is_now:
            found.append(f"{key}: {was} and {is_now}")
    return found


def smallest(count: int, other: int) -> float:
    """Return the least chance that so many samples on each side can show."""
    return 2 / stats.arrangements(count, other)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="the table as JSON")
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")


def main(args: argparse.Namespace) -> None:
    old, new = record.load(args.old), record.load(args.new)
    made = compare(old, new)
    if not made:
        raise SystemExit("bench: the two have no figure in common")
    if args.json:
        rows = [{**one._asdict(), "verdict": one.verdict} for one in made]
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if got_worse(made):
        raise SystemExit(1)


def got_worse(made: Iterable[Change]) -> bool:
    """Return whether one of them is for the worse."""
    return any(one.verdict == "worse" for one in made)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Print what is not comparable, and each change; return these."""
    for text in differences(old, new):
        print(f"not the same in both: {text}")
    made = changes(old["samples"], new["samples"])
    if made:
        report(old, new, made)
    return made


def report(old: dict[str, Any], new: dict[str, Any], made: list[Change]) -> None:
    """Print the table, and a word where there are too few samples to tell anything."""
    print(
        f"{new.get('revision', 'new')} against {old.get('revision', 'old')}, ratios of medians (95%)"
    )
    for one in made:
        spread = f"({one.low:.3f} to {one.high:.3f})"
        print(
            f"  {one.subject:24} {one.figure:28} {one.ratio:7.3f} {spread:20} p {one.p:.4f}  {one.verdict}"
        )
    weak = {
        one.figure
        for one in made
        if smallest(*(len(side["samples"][one.subject][one.figure]) for side in (old, new)))
        >= LEVEL
    }
    if weak:
        print(f"too few samples to tell at {LEVEL}: {', '.join(sorted(weak))}")
