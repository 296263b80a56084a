# SPDX-License-Identifier: Apache-2.0
"""A record as rows: each figure of each subject, and how it compares with the base of that run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.report import chart, stats


class Row(NamedTuple):
    """A figure of a subject, in the record's unit: median and quartiles of `n` samples.

    `ratio` is to the base subject's median, with its 95% interval, and `chance` that the two are
    the same; None for the base itself, and where the base has no such figure.
    """

    figure: str
    subject: str
    n: int
    median: float
    low: float
    high: float
    ratio: tuple[float, float, float] | None
    chance: float | None


def row(record: Mapping[str, Any], figure: str, subject: str) -> Row:
    """Return one of them."""
    samples, scale, base = record["samples"], record["scale"], record["base"]
    values = samples[subject][figure]
    low, high = chart.quartiles(values)
    other = samples.get(base, {}).get(figure)
    compared = other if other and subject != base else None
    return Row(
        figure,
        subject,
        len(values),
        statistics.median(values) * scale,
        low * scale,
        high * scale,
        stats.ratio(values, compared) if compared else None,
        stats.permutation(values, compared) if compared and min(values + compared) > 0 else None,
    )


def figures(record: Mapping[str, Any]) -> list[str]:
    """Return their names, in the order of the base's."""
    samples = record["samples"]
    order = [record["base"], *samples]
    return list(dict.fromkeys(name for subject in order for name in samples.get(subject, {})))


def rows(record: Mapping[str, Any]) -> list[Row]:
    """Return all of them, figure after figure."""
    return [
        row(record, figure, subject)
        for figure in figures(record)
        for subject, found in record["samples"].items()
        if found.get(figure)
    ]


def number(value: float) -> str:
    """Return three or four digits that count, never an exponent."""
    for limit, digits in ((0.01, 5), (0.1, 4), (1, 3), (100, 2), (1000, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def interval(middle: float, low: float, high: float) -> str:
    """Return a figure and how far it may be off."""
    return f"{number(middle)} ({number(low)} to {number(high)})"


def ratio_text(found: Row) -> str:
    """Return ratio and interval; "" without."""
    if found.ratio is None:
        return ""
    return interval(*found.ratio)


def chance_text(found: Row) -> str:
    """Return the chance of no difference; "" where nothing was compared."""
    if found.chance is None:
        return ""
    return "< 0.001" if found.chance < 0.001 else f"{found.chance:.3f}"


def table(record: Mapping[str, Any]) -> str:
    """Return a table for people: median, range, and ratio to the base subject of each figure."""
    samples, base = record["samples"], record["base"]
    unit, scale = record["unit"], record["scale"]
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
            middle, low, high = stats.ratio(values, samples[base][figure])
            lines.append(
                f"  {name:24} {statistics.median(values) * scale:10.2f} {min(values) * scale:10.2f}"
                f" {max(values) * scale:10.2f} {unit:4} {middle:.3f} ({low:.3f} to {high:.3f})"
            )
    return "\n".join(lines)
