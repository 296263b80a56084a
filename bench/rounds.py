# SPDX-License-Identifier: Apache-2.0
"""Subjects measured side by side in one run: round by round, in an order by lot, until they can be
told apart.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench.report import stats
from bench.report.stats import Samples

#: Measures a subject once: a sample of each of its figures.
Measure = Callable[[], dict[str, float]]


class Plan(NamedTuple):
    """How long it goes on: at most `rounds`, and `budget` seconds; no longer once each subject is
    told from `base`.
    """

    rounds: int
    base: str = ""
    budget: float = math.inf
    seed: int = 1

    @property
    def level(self) -> float:
        """LEVEL, divided among all the times that one may look: who looks often enough finds a
        difference by chance.
        """
        return stats.LEVEL / max(1, self.rounds // 2)


def interleave(
    subjects: Mapping[str, Measure],
    plan: Plan,
    keep: Callable[[Samples], object] | None = None,
) -> Samples:
    """Run all subjects round by round: {subject: {figure: samples}}.

    The order of a round is drawn by lot, and the next round has it the other way round: A B, B A.
    `keep` is called with what there is after each round, so that a long run that is cut short was
    not for nothing.
    """
    chance = random.Random(plan.seed)
    end = time.monotonic() + plan.budget
    samples: Samples = {name: {} for name in subjects}
    order: list[str] = []
    for turn in range(plan.rounds):
        order = order[::-1] if turn % 2 else chance.sample(list(subjects), len(subjects))
        for name in order:
            progress(f"round {turn + 1} of {plan.rounds}: {name}")
            for figure, value in subjects[name]().items():
                samples[name].setdefault(figure, []).append(value)
        if keep:
            keep(samples)
        if turn % 2 and (settled(samples, plan.base, plan.level) or time.monotonic() > end):
            break
    progress("")
    return samples


def settled(samples: Samples, base: str, level: float) -> bool:
    """Return whether all figures of all subjects are told from the base's, by that level.

    Without a base nothing is.
    """
    return base in samples and all(
        stats.permutation(values, samples[base][figure]) < level
        for name, figures in samples.items()
        if name != base
        for figure, values in figures.items()
        if figure in samples[base]
    )


def progress(text: str) -> None:
    """Print one line that overwrites itself, only on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
