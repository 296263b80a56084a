# SPDX-License-Identifier: Apache-2.0
"""Bars on a logarithmic scale, for times that differ by orders of magnitude: on a terminal, and as
a picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

FULL, HALF = "█", "▌"
LEAST_WIDTH = 60


class Bar(NamedTuple):
    """A name and a time in seconds; how far it spreads, if that is known."""

    name: str
    seconds: float
    low: float | None = None
    high: float | None = None


def time_text(seconds: float) -> str:
    """Return a time with the unit that suits it: 3.70 us, 1.04 ms."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def decades(bars: Sequence[Bar]) -> tuple[int, int]:
    """Return the powers of ten that the scale begins and ends with; the shortest bar is within its
    first decade.
    """
    values = [bar.seconds for bar in bars]
    low = math.floor(math.log10(min(values)))
    if math.log10(min(values)) - low < 0.1:
        low -= 1
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def length(bar: Bar, scale: tuple[int, int], width: int) -> float:
    """Return the length of the bar, in columns."""
    low, high = scale
    return (math.log10(bar.seconds) - low) / (high - low) * width


def line(bar: Bar, scale: tuple[int, int], width: int) -> str:
    """Return the bar itself."""
    columns = length(bar, scale, width)
    return FULL * int(columns) + (HALF if columns % 1 >= 0.5 else "")


def axis(scale: tuple[int, int], width: int) -> str:
    """Return the powers of ten, each where a bar of that time would end; the first marks the left
    edge.
    """
    low, high = scale
    text = ""
    for power in range(low, high + 1):
        place = round((power - low) / (high - low) * width)
        label = "|" + time_text(10.0**power * (1 + 1e-9))
        if place >= len(text) + bool(text):
            text = text.ljust(place) + label
    return text


def text(bars: Sequence[Bar], width: int = 80) -> str:
    """Draw bars on a terminal: each bar with its time, and the scale below."""
    names = max(len(bar.name) for bar in bars)
    room = max(width, LEAST_WIDTH) - names - 20
    scale = decades(bars)
    lines = [
        f"{bar.name:{names}} {time_text(bar.seconds):>8}  {line(bar, scale, room)}" for bar in bars
    ]
    return "\n".join([*lines, f"{'':{names + 11}}{axis(scale, room)}  (log scale)"])


def available() -> bool:
    """Return whether pictures can be made."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def picture(path: str | os.PathLike[str], title: str, panels: Mapping[str, Sequence[Bar]]) -> None:
    """Write a PNG with a panel of bars for each title. Wants matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [len(bars) + 1.5 for bars in panels.values()]
    colours = colours_of(panels)
    figure, rows = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, 0.42 * sum(heights) + 0.6),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, bars) in zip(rows[:, 0], panels.items(), strict=True):
        draw(axes, name, bars, colours)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def colours_of(panels: Mapping[str, Sequence[Bar]]) -> dict[str, str]:
    """Return a colour for each name: it has the same in every panel, also where others are missing."""
    names = dict.fromkeys(bar.name for bars in panels.values() for bar in bars)
    return {name: f"C{index % 10}" for index, name in enumerate(names)}


def draw(axes: object, name: str, bars: Sequence[Bar], colours: Mapping[str, str]) -> None:
    """Draw one panel."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    heights = list(range(len(bars)))
    values = [bar.seconds for bar in bars]
    spread = [
        [bar.seconds - (bar.seconds if bar.low is None else bar.low) for bar in bars],
        [(bar.seconds if bar.high is None else bar.high) - bar.seconds for bar in bars],
    ]
    low, high = decades(bars)
    filling = [colours[bar.name] for bar in bars]
    axes.barh(heights, values, left=0, xerr=spread, capsize=3, color=filling)
    axes.set_xscale("log")
    axes.set_xlim(10.0**low, 10.0 ** (high + 0.7))
    for height, bar in enumerate(bars):
        end = max(bar.seconds, bar.high or 0)
        axes.text(end * 1.08, height, time_text(bar.seconds), va="center", fontsize=8)
    ticks = [10.0**power for power in range(low, high + 1)]
    axes.set_xticks(ticks, [time_text(tick * (1 + 1e-9)) for tick in ticks])
    axes.set_yticks(heights, [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.set_title(f"{name} (log scale)", fontsize=9)
