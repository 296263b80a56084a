# SPDX-License-Identifier: Apache-2.0
"""Samples compared: ratios of medians with their spread, and the chance of a difference."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence

RESAMPLES = 2000
PERMUTATIONS = 5000
#: How sure one must be that a difference is not chance.
LEVEL = 0.01
#: {subject: {figure: its samples}}
Samples = dict[str, dict[str, list[float]]]


def ratio(samples: list[float], base: list[float]) -> tuple[float, float, float]:
    """Return ratio of the medians and its 95% bootstrap interval."""
    chance = random.Random(1)
    values = sorted(
        statistics.median(chance.choices(samples, k=len(samples)))
        / statistics.median(chance.choices(base, k=len(base)))
        for _ in range(RESAMPLES)
    )
    middle = statistics.median(samples) / statistics.median(base)
    return middle, values[int(RESAMPLES * 0.025)], values[int(RESAMPLES * 0.975)]


def medians(samples: list[float], base: list[float]) -> float:
    """Return the ratio of the two, without an interval."""
    return statistics.median(samples) / statistics.median(base)


def pooled(runs: Sequence[tuple[list[float], list[float]]]) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios of several runs, and its 95% bootstrap interval:
    samples are drawn again within each run, so that the interval is one for these runs. Samples are
    above zero.
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
    """Return how many ways there are to choose which of all samples are the first `count`."""
    return math.comb(count + other, count)


def permutation(samples: list[float], base: list[float]) -> float:
    """Return the chance that the two would be that far apart if both came from the same source: of
    all arrangements where there are few, else of so many by lot. Samples are above zero.
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
    """Return the chosen ones, and the others."""
    mine = [value for at, value in enumerate(pool) if at in chosen]
    return mine, [value for at, value in enumerate(pool) if at not in chosen]


def apart(samples: list[float], base: list[float]) -> float:
    """Return how far geometric means are from each other, as a ratio.

    Medians would be the same for too many arrangements. Rounded, so that the same figures are as
    far in any order.
    """
    mine, theirs = (statistics.fmean(map(math.log, side)) for side in (samples, base))
    return round(abs(mine - theirs), 12)
