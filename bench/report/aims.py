# SPDX-License-Identifier: Apache-2.0
"""Aims: a figure's limit, against another figure of the same run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.report import stats
from bench.report.stats import Samples


class Aim(NamedTuple):
    """`figure` of a subject is to be at most `limit` times `base_figure` of the base; "": the same
    one.

    A limit of 1 is met if the difference is none that can be measured.
    """

    subject: str
    figure: str
    base: str
    limit: float
    base_figure: str = ""

    def sides(self, samples: Samples) -> tuple[list[float], list[float]]:
        """Return the samples of both; empty what was not measured."""
        mine = samples.get(self.subject, {}).get(self.figure, [])
        return mine, samples.get(self.base, {}).get(self.base_figure or self.figure, [])


class Verdict(NamedTuple):
    """An aim and what was measured: the ratio of medians and its 95% interval."""

    aim: Aim
    ratio: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        """By the ratio; where no difference is the aim, if the interval reaches it."""
        return (self.low if self.aim.limit == 1 else self.ratio) <= self.aim.limit

    @property
    def word(self) -> str:
        """ "met" or "missed", and whether another run may say otherwise."""
        word = "met" if self.met else "missed"
        limit = self.aim.limit
        near = self.low <= limit < (self.ratio if limit == 1 else self.high)
        return word + " within the spread" * near

    @property
    def limit(self) -> str:
        return f"at most {self.aim.limit:.4g}"

    @property
    def what(self) -> str:
        aim = self.aim
        other = f", {aim.base_figure}" if aim.base_figure not in ("", aim.figure) else ""
        return f"{aim.figure}: {aim.subject} / {aim.base}{other}"

    def __str__(self) -> str:
        spread = f"{self.ratio:9.4g} ({self.low:.4g} to {self.high:.4g})"
        return f"  {self.what:62} {spread}, aim {self.limit}: {self.word}"

    def row(self) -> dict[str, Any]:
        """Return it for the record."""
        return {**self.aim._asdict(), **self._asdict(), "aim": self.what, "word": self.word}


def verdicts(aims: Iterable[Aim], samples: Samples) -> list[Verdict]:
    """Return each aim of which both sides were measured."""
    sides = [(aim, *aim.sides(samples)) for aim in aims]
    return [Verdict(aim, *stats.ratio(mine, base)) for aim, mine, base in sides if mine and base]


def text(judged: Iterable[Verdict]) -> str:
    """Return it as text for people."""
    return "\n".join(["aims, as ratios of medians with their 95% interval", *map(str, judged)])
