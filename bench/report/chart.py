# SPDX-License-Identifier: Apache-2.0
"""Samples as bars with their spread: on a terminal, and as a picture where matplotlib is installed."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.report import stats
from pyvmm import logbars

if TYPE_CHECKING:
    from bench.report.steps import Share

FULL, HALF, SPREAD = "█", "▌", "─"
LEAST_WIDTH = 72


class Bar(NamedTuple):
    """One subject's figure: its median and quartiles, and the ratio to the base subject with its
    interval.
    """

    group: str
    name: str
    middle: float
    low: float
    high: float
    ratio: tuple[float, float, float]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the quartiles: a quarter of the samples lies below the first, a quarter above the
    second.
    """
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def bars(
    samples: Mapping[str, Mapping[str, list[float]]], base: str, figures: Iterable[str]
) -> list[Bar]:
    """Return the bars, group after group: each of the figures that the base subject has is a group."""
    made = []
    for group in (figure for figure in figures if figure in samples[base]):
        for name, found in samples.items():
            if values := found.get(group):
                low, high = quartiles(values)
                ratio = stats.ratio(values, samples[base][group])
                made.append(Bar(group, name, statistics.median(values), low, high, ratio))
    return made


def panels(
    samples: Mapping[str, Mapping[str, list[float]]], figures: Iterable[str]
) -> dict[str, list[logbars.Bar]]:
    """Return bars for a logarithmic scale, by figure: medians, and quartiles as spread.

    What took no time has none.
    """
    made: dict[str, list[logbars.Bar]] = {}
    for figure in figures:
        for name, found in samples.items():
            values = found.get(figure)
            if values and min(values) > 0:
                bar = logbars.Bar(name, statistics.median(values), *quartiles(values))
                made.setdefault(figure, []).append(bar)
    return made


def line(bar: Bar, most: float, width: int) -> str:
    """Return a bar of at most `width` characters, of which `most` is the longest; the upper
    quartile as a whisker.
    """
    length = bar.middle / most * width
    text = FULL * int(length) + (HALF if length % 1 >= 0.5 else "")
    return text + SPREAD * (round(bar.high / most * width) - len(text))


def text(made: list[Bar], unit: str, scale: float, width: int | None = None) -> str:
    """Return text for a terminal."""
    width = max(width or shutil.get_terminal_size().columns, LEAST_WIDTH)
    names = max(len(bar.name) for bar in made)
    room = width - names - 26
    lines = []
    for group in dict.fromkeys(bar.group for bar in made):
        lines.append(group)
        these = [bar for bar in made if bar.group == group]
        most = max(bar.high for bar in these)
        for bar in these:
            figure = f"{bar.middle * scale:9.2f} {unit} {bar.ratio[0]:6.2f} x"
            lines.append(f"  {bar.name:{names}} {figure}  {line(bar, most, room)}")
    return "\n".join(lines)


def curve(path: str, title: str, found: Mapping[str, Any]) -> None:
    """Write a PNG with a line for each subject of a record, whose `x` says where figures are.

    Wants matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5.5), layout="constrained")
    for name, figures in found["samples"].items():
        points = sorted((found["x"][label], values) for label, values in figures.items())
        middles = [statistics.median(values) * found["scale"] for _, values in points]
        ranges = [[value * found["scale"] for value in quartiles(values)] for _, values in points]
        spread = [
            [middle - low for middle, (low, _) in zip(middles, ranges, strict=True)],
            [high - middle for middle, (_, high) in zip(middles, ranges, strict=True)],
        ]
        axes.errorbar([at for at, _ in points], middles, yerr=spread, marker="o", label=name)
    axes.set_yscale("log")
    axes.set_xlabel(found["x_label"])
    axes.set_ylabel(f"{found['unit']} an operation; median and quartiles (log scale)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


class Spot(NamedTuple):
    """Where a line of a sweep goes: at a value of the option, a ratio and its interval."""

    at: float | str
    middle: float
    low: float
    high: float


def sweep(
    path: str, title: str, axis: str, panels: Mapping[str, Mapping[str, Sequence[Spot]]]
) -> None:
    """Write a PNG with a panel for each figure, in which lines go over the values of an option.

    Wants matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, found = pyplot.subplots(
        len(panels), 1, figsize=(10, 1 + 3.2 * len(panels)), squeeze=False, layout="constrained"
    )
    for axes, (name, lines) in zip(found[:, 0], panels.items(), strict=True):
        for label, spots in lines.items():
            spread = [
                [spot.middle - spot.low for spot in spots],
                [spot.high - spot.middle for spot in spots],
            ]
            places, middles = [spot.at for spot in spots], [spot.middle for spot in spots]
            axes.errorbar(places, middles, yerr=spread, marker="o", capsize=3, label=label)
        axes.set_title(name)
        axes.set_xlabel(axis)
        axes.set_xticks(list(dict.fromkeys(spot.at for spots in lines.values() for spot in spots)))
        axes.set_ylabel("ratio (log scale)")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def colour_of(name: str) -> str:
    """Return a colour that tells exits, symcalls and other calls apart."""
    if "symcall" in name:
        return "C1"
    return "C2" if "call" in name else "C0"


def draw_bars(axes: object, these: list[Bar], unit: str, scale: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    heights = range(len(these))
    middles = [bar.middle * scale for bar in these]
    spread = [
        [(bar.middle - bar.low) * scale for bar in these],
        [(bar.high - bar.middle) * scale for bar in these],
    ]
    colours = [colour_of(bar.name) for bar in these]
    axes.barh(heights, middles, xerr=spread, capsize=3, color=colours)
    for height, bar in zip(heights, these, strict=True):
        middle, low, high = bar.ratio
        label = f" {bar.middle * scale:.1f} {unit}, {middle:.2f} x ({low:.2f} to {high:.2f})"
        axes.text(bar.high * scale, height, label, va="center", fontsize=8)
    axes.set_yticks(heights, [bar.name for bar in these])
    axes.invert_yaxis()
    axes.set_xlim(0, max(bar.high for bar in these) * scale * 1.6)
    axes.set_xlabel(f"{unit}; bar: median, whisker: quartiles")
    axes.set_title(these[0].group)


def draw_shares(
    axes: object, shares_of: Mapping[str, Sequence[Share]], unit: str, scale: float
) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    steps = list(dict.fromkeys(share.step for found in shares_of.values() for share in found))
    for height, found in enumerate(shares_of.values()):
        left = 0.0
        for share in found:
            colour = f"C{steps.index(share.step) % 10}"
            axes.barh(height, share.seconds * scale, left=left, color=colour)
            if share.part > 0.05:
                middle = left + share.seconds * scale / 2
                axes.text(middle, height, f"{share.part:.0%}", ha="center", va="center", fontsize=8)
            left += share.seconds * scale
    for index, step in enumerate(steps):
        axes.barh(0, 0, color=f"C{index % 10}", label=step)
    axes.set_yticks(range(len(shares_of)), list(shares_of))
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit}")
    axes.set_title("steps of a round, timed around each ioctl")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)


def picture(
    path: str,
    title: str,
    made: list[Bar],
    shares_of: Mapping[str, Sequence[Share]],
    unit: str,
    scale: float,
) -> None:
    """Write a PNG: a panel of bars for each group, and one of the steps. Wants matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(dict.fromkeys(bar.group for bar in made))
    rows = [[bar for bar in made if bar.group == group] for group in groups]
    heights = [len(these) for these in rows] + ([len(shares_of)] if shares_of else [])
    figure, panels = pyplot.subplots(
        len(heights),
        1,
        figsize=(11, 1.2 * len(heights) + 0.36 * sum(heights)),
        height_ratios=[height + 1 for height in heights],
        squeeze=False,
        layout="constrained",
    )
    for panel, these in zip(panels[:, 0], rows, strict=False):
        draw_bars(panel, these, unit, scale)
    if shares_of:
        draw_shares(panels[-1, 0], shares_of, unit, scale)
    figure.suptitle(title, fontsize=10)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
