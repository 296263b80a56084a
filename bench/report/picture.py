# SPDX-License-Identifier: Apache-2.0
"""A record as a picture: lines where its figures are points of a curve, else bars; on a terminal
too.

Bars have a logarithmic scale where they differ by orders of magnitude.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import chart, record, results
from bench.report.steps import Share
from pyvmm import logbars

#: Bars that differ by more than this have a logarithmic scale.
FAR = 20.0


def shown(found: Mapping[str, Any]) -> list[str]:
    """Return the figures that have a panel: those that the suite names, or all."""
    figures = results.figures(found)
    return [name for name in found.get("shown", figures) if name in figures]


def is_far(panels: Mapping[str, list[logbars.Bar]]) -> bool:
    """Return whether bars of one panel differ too much for a linear scale."""
    middles = [[bar.seconds for bar in bars] for bars in panels.values()]
    return any(max(values) / min(values) >= FAR for values in middles)


def shares(found: Mapping[str, Any]) -> dict[str, list[Share]]:
    """Return the steps of a round that a record has, by subject."""
    steps = found.get("steps", {})
    return {name: [Share(**share) for share in listed] for name, listed in steps.items()}


def draw(found: Mapping[str, Any], target: Path) -> None:
    """Write a PNG, with a panel for each figure. Wants matplotlib."""
    title, figures = record.title(found), shown(found)
    panels = chart.panels(found["samples"], figures)
    if "x" in found:
        chart.curve(str(target), title, found)
    elif is_far(panels):
        logbars.picture(target, title, panels)
    else:
        bars = chart.bars(found["samples"], found["base"], figures)
        chart.picture(str(target), title, bars, shares(found), found["unit"], found["scale"])


def text(found: Mapping[str, Any]) -> str:
    """Return the same in characters, of bars; "" for a curve."""
    if "x" in found:
        return ""
    panels = chart.panels(found["samples"], shown(found))
    if is_far(panels):
        width = shutil.get_terminal_size().columns
        return "\n\n".join(f"{name}\n{logbars.text(bars, width)}" for name, bars in panels.items())
    bars = chart.bars(found["samples"], found["base"], shown(found))
    return chart.text(bars, found["unit"], found["scale"])
