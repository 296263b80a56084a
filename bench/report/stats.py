# SPDX-License-Identifier: Apache-2.0
"""Samples of things measured side by side: interleaved in one run, compared as ratios with spread."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

RESAMPLES = 2000
PERMUTATIONS = 5000
#: How sure one must be that a difference is not chance.
LEVEL = 0.01


Samples = dict[str, dict[str, list[float]]]


class Plan(NamedTuple):
    """How long it goes on: at most `rounds`, and `budget` seconds; no longer once each subject is told from `base`."""

    rounds: int
    base: str = ""
    budget: float = math.inf
    seed: int = 1

    @property
    def level(self) -> float:
        """LEVEL, divided among all the times that one may look: who looks often enough finds a difference by chance."""
        return LEVEL / max(1, self.rounds // 2)


def interleave(
    subjects: Mapping[str, Callable[[], dict[str, float]]],
    plan: Plan,
    keep: Callable[[Samples], None] | None = None,
) -> Samples:
    """Runs all subjects round by round: {subject: {figure: samples}}.

    The order of a round is drawn by lot, and the next round has it the other way round: A B, B A. `keep` is called with
    what there is after each round, so that a long run that is cut short was not for nothing.
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
    """Whether all figures of all subjects are told from the base's, by that level. Without a base nothing is."""
    return base in samples and all(
        permutation(values, samples[base][figure]) < level
        for name, figures in samples.items()
        if name != base
        for figure, values in figures.items()
        if figure in samples[base]
    )


def progress(text: str) -> None:
    """One line that overwrites itself, only on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def ratio(samples: list[float], base: list[float]) -> tuple[float, float, float]:
    """Ratio of the medians and its 95% bootstrap interval."""
    chance = random.Random(1)
    values = sorted(
        statistics.median(chance.choices(samples, k=len(samples)))
        / statistics.median(chance.choices(base, k=len(base)))
        for _ in range(RESAMPLES)
    )
    middle = statistics.median(samples) / statistics.median(base)
    return middle, values[int(RESAMPLES * 0.025)], values[int(RESAMPLES * 0.975)]


def medians(samples: list[float], base: list[float]) -> float:
    """The ratio of the two, without an interval."""
    return statistics.median(samples) / statistics.median(base)


def pooled(runs: Sequence[tuple[list[float], list[float]]]) -> tuple[float, float, float]:
    """The geometric mean of the ratios of several runs, and its 95% bootstrap interval: samples are drawn again within
    each run, so that the interval is one for these runs. Samples are above zero.
    """
    chance = random.Random(1)

    def drawn(values: list[float]) -> list[float]:
        return chance.choices(values, k=len(values))

    draws = sorted(
        statistics.geometric_mean([medians(drawn(mine), drawn(base)) for mine, base in runs])
        for _ in range(RESAMPLES)
    )
    middle = statistics.geometric_mean([medians(*pair) for pair in runs])
    return middle, draws[int(RESAMPLES * 0.025)], draws[int(RESAMPLES * 0.975)]


def arrangements(count: int, other: int) -> int:
    """Ways to choose which of all samples are the first `count`."""
    return math.comb(count + other, count)


def permutation(samples: list[float], base: list[float]) -> float:
    """The chance that the two would be that far apart if both came from the same source: of all arrangements where
    there are few, else of so many by lot. Samples are above zero.
    """
    pool = samples + base
    seen = apart(samples, base)
    if arrangements(len(samples), len(base)) <= PERMUTATIONS:
        every = itertools.combinations(range(len(pool)), len(samples))
        made = [apart(*split(pool, set(chosen))) for chosen in every]
        return sum(one >= seen for one in made) / len(made)
    chance = random.Random(1)
    places = range(len(pool))
    hits = sum(
        apart(*split(pool, set(chance.sample(places, len(samples))))) >= seen
        for _ in range(PERMUTATIONS)
    )
    return (hits + 1) / (PERMUTATIONS + 1)  # what was seen is one of them


def split(pool: list[float], chosen: set[int]) -> tuple[list[float], list[float]]:
    """The chosen ones, and the others."""
    mine = [value for at, value in enumerate(pool) if at in chosen]
    return mine, [value for at, value in enumerate(pool) if at not in chosen]


def apart(samples: list[float], base: list[float]) -> float:
    """How far geometric means are from each other, as a ratio. Medians would be the same for too many arrangements.
    Rounded, so that the same figures are as far in any order.
    """
    mine, theirs = (statistics.fmean(map(math.log, side)) for side in (samples, base))
    return round(abs(mine - theirs), 12)


def table(samples: dict[str, dict[str, list[float]]], base: str, unit: str, scale: float) -> str:
    """For people: median, range, and ratio to the base subject of each figure."""
    lines = []
    for figure in samples[base]:
        lines.append(f"{figure}")
        lines.append(
            f"  {'':24} {'median':>10} {'min':>10} {'max':>10} {unit:4} ratio to {base} (95%)"
        )
        for name, figures in samples.items():
            values = figures.get(figure)
            if not values:
                lines.append(f"  {name:24} not measured")
                continue
            middle, low, high = ratio(values, samples[base][figure])
            lines.append(
                f"  {name:24} {statistics.median(values) * scale:10.2f} {min(values) * scale:10.2f}"
                f" {max(values) * scale:10.2f} {unit:4} {middle:.3f} ({low:.3f} to {high:.3f})"
            )
    return "\n".join(lines)
