# SPDX-License-Identifier: Apache-2.0
"""The shape of a suite, and the one way in which each is run.

A suite is a file in bench/suites that ends with `SUITE = Suite(...)`; its name is the file's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from bench import options, rounds
from bench.report import aims, picture, record, results
from bench.report.aims import Aim
from bench.report.stats import Samples
from bench.rounds import Measure, Plan
from pyvmm.guest.cache import DEFAULT_LINUX


class Subjects(NamedTuple):
    """The subjects that a suite compares in one run.

    `measures` has a function for each subject, by the name that is shown. The others' figures are
    divided by those of `base`. `notes` says what the figures are of. The record gets what is in
    `about`, and what `afterwards` returns, which is called once all has been measured.
    """

    measures: Mapping[str, Measure]
    base: str
    aims: Sequence[Aim] = ()
    notes: str = ""
    about: Mapping[str, Any] = {}
    afterwards: Callable[[Plan], Mapping[str, Any]] = lambda plan: {}


class Suite(NamedTuple):
    """A benchmark.

    - `text` is the line that lists it.
    - `subjects` makes what is compared, of the parsed options, for as long as its block lasts.
    - Figures times `scale` are in `unit`: seconds if it is 1.
    - `rounds` are how many there are at most; `quick` with --quick.
    - `linux`: the guests are Linux, so that the suite wants a KVM that boots that in useful time, and has --linux.
    - `options` adds the suite's own to a parser.
    - `prepare` fetches and compiles what guests run, into the cache: in the lab there is no network, and no compiler.
    - `tell` makes a text of what `afterwards` added to a record.
    """

    text: str
    subjects: Callable[[argparse.Namespace], AbstractContextManager[Subjects]]
    unit: str
    scale: float
    rounds: int
    quick: int
    linux: bool = False
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    prepare: Callable[[], None] = lambda: None
    tell: Callable[[Mapping[str, Any]], str] = lambda record: ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add those that all suites have, and its own."""
        options.add(parser)
        if self.linux:
            parser.add_argument("--linux", default=DEFAULT_LINUX, help="which guest (%(default)s)")
        self.options(parser)

    def run(self, name: str, args: argparse.Namespace) -> None:
        """Measure, and leave a record, a table, and a picture if one is asked for.

        The record is written after each round, so that a long run that is cut short was not for
        nothing.
        """
        with self.subjects(args) as made:
            plan = options.plan(args, made.base, rounds=self.rounds, quick=self.quick)

            def keep(samples: Samples, **more: Any) -> dict[str, Any]:
                judged = aims.verdicts(made.aims, samples)
                about = {**self._about(args), **made.about, **more}
                return record.write(
                    args.json, name, samples, base=made.base, scale=self.scale, unit=self.unit,
                    judged=judged, notes=made.notes, **about,
                )  # fmt: skip

            samples = rounds.interleave(made.measures, plan, keep)
            found = keep(samples, **made.afterwards(plan))
        self._report(args, found, aims.verdicts(made.aims, samples))

    def _about(self, args: argparse.Namespace) -> dict[str, Any]:
        return {"linux": args.linux} if self.linux else {}

    def _report(
        self, args: argparse.Namespace, found: dict[str, Any], judged: Sequence[aims.Verdict]
    ) -> None:
        parts = [results.table(found), found["notes"], self.tell(found), aims.text(judged)]
        print("\n\n".join(part for part in [*parts, picture.text(found)] if part))
        if args.plot:
            Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
            picture.draw(found, Path(args.plot))
            print(f"\n{args.plot}")
