# SPDX-License-Identifier: Apache-2.0
"""The cells of a sweep side by side: which machine ran each, and their ratios, pooled over runs.

Samples of two runs are never mixed: a ratio is taken within a run, on one machine, and the ratios
are pooled. How far the runs are from each other is told beside it, as the interval says nothing of
machines that were not there.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import chart, results, stats

#: The file that a sweep's folder has beside the records: all cells, and why some have no record.
MANIFEST = "sweep.manifest"
CELL_HEADS = ("cell", "machine", "worker", "tries", "KVM", "in the lab", "when")
POINT_HEADS = ("figure", "subject", "options", "ratio (95%)", "of a run", "runs", "machines")

Record = dict[str, Any]


class Point(NamedTuple):
    """A figure of a subject with one choice of options, over all runs: the ratios to the base of
    each, pooled, with the 95% interval; the least and the greatest of a run; how many there were,
    and where.
    """

    figure: str
    subject: str
    options: dict[str, Any]
    ratio: tuple[float, float, float]
    least: float
    most: float
    runs: int
    hosts: tuple[str, ...]


def swept(found: Iterable[Record]) -> list[Record]:
    """Return the records that are cells, in the order of their options' values, numbers as numbers."""
    return sorted((record for record in found if "cell" in record), key=place)


def place(record: Record) -> tuple[Any, ...]:
    """Return where a cell stands among the others."""
    values = record["cell"]["options"].items()
    texts = [
        (name, isinstance(value, str), value if not isinstance(value, str) else 0, str(value))
        for name, value in values
    ]
    return record["suite"], texts, record["cell"]["run"]


def missing(folder: Path, found: Iterable[Record]) -> dict[str, str]:
    """Return cells of the folder's last sweep that have no record, and why, as far as is known."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    there = {record["cell"]["name"] for record in swept(found)}
    failed = manifest["failed"]
    return {
        name: failed.get(name, "was not run") for name in manifest["cells"] if name not in there
    }


def by_base(found: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return the records that can be pooled or drawn together: of one suite, compared with one
    subject.
    """
    made: dict[tuple[str, str], list[Record]] = {}
    for record in found:
        made.setdefault((record["suite"], record["base"]), []).append(record)
    return made


def points(found: Sequence[Record]) -> list[Point]:
    """Return all of one suite and base, figure after figure."""
    runs: dict[str, list[Record]] = {}
    for record in found:
        runs.setdefault(json.dumps(record["cell"]["options"]), []).append(record)
    figures = list(dict.fromkeys(name for record in found for name in results.figures(record)))
    subjects = list(dict.fromkeys(name for record in found for name in record["samples"]))
    made = [
        point(figure, subject, group)
        for figure in figures
        for subject in subjects
        if subject != found[0]["base"]
        for group in runs.values()
    ]
    return [one for one in made if one]


def point(figure: str, subject: str, group: Sequence[Record]) -> Point | None:
    """Return one of them, from the runs that have both sides, above zero."""
    pairs, hosts = [], []
    for record in group:
        samples = record["samples"]
        mine = samples.get(subject, {}).get(figure)
        base = samples.get(record["base"], {}).get(figure)
        if mine and base and min(mine + base) > 0:
            pairs.append((mine, base))
            hosts.append(record["cell"]["host"])
    if not pairs:
        return None
    ratios = [stats.medians(*pair) for pair in pairs]
    where = tuple(sorted(set(hosts)))
    options = group[0]["cell"]["options"]
    pooled = stats.pooled(pairs)
    return Point(figure, subject, options, pooled, min(ratios), max(ratios), len(pairs), where)


def options_text(options: dict[str, Any]) -> str:
    """Return options as text: memory=256, linux=6.1"""
    return ", ".join(f"{name}={value}" for name, value in options.items())


# Tables


def cell_rows(found: Iterable[Record], absent: dict[str, str]) -> list[tuple[str, ...]]:
    """Return each cell, with the machine that ran it; then those that have no record."""
    rows = []
    for record in found:
        cell, machine = record["cell"], record["machine"]
        worker = cell["worker"] or "here"
        lab = "yes" if machine["lab"] else "no"
        rows.append(
            (cell["name"], cell["host"], worker, str(cell["tries"]), machine["kvm"], lab, machine["time"])
        )  # fmt: skip
    return rows + [(name, reason, *[""] * 5) for name, reason in absent.items()]


def point_rows(found: Iterable[Point]) -> list[tuple[str, ...]]:
    """Return each pooled ratio."""
    return [
        (
            one.figure, one.subject, options_text(one.options), results.interval(*one.ratio),
            f"{results.number(one.least)} to {results.number(one.most)}", str(one.runs), ", ".join(one.hosts),
        )
        for one in found
    ]  # fmt: skip


def tables(
    found: Sequence[Record], absent: dict[str, str]
) -> dict[str, tuple[Sequence[str], list[tuple[str, ...]]]]:
    """Return all that is shown, by title: heads and rows."""
    made: dict[str, tuple[Sequence[str], list[tuple[str, ...]]]] = {}
    made["cells"] = (CELL_HEADS, cell_rows(found, absent))
    for (suite, base), records in by_base(found).items():
        rows = point_rows(points(records))
        if rows:
            made[f"{suite}: ratios to {base}, pooled over runs"] = (POINT_HEADS, rows)
    return made


def markdown(found: Sequence[Record], absent: dict[str, str]) -> str:
    """Return the text for summary.md."""
    lines = []
    for title, (heads, rows) in tables(found, absent).items():
        lines += [f"## {title}", "", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


def page(found: Sequence[Record], absent: dict[str, str]) -> str:
    """Return the text for report.html."""
    parts = []
    for title, (heads, rows) in tables(found, absent).items():
        parts.append(f"<h2>{html.escape(title)}</h2>\n<table>{row_html(heads, 'th')}")
        parts += [row_html(row, "td") for row in rows]
        parts.append("</table>")
    return "\n".join(parts)


def row_html(cells: Iterable[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"


# Pictures


def axis_of(made: Sequence[Point]) -> str:
    """Return the option along which there is something to see: one with several values, all numbers
    if there is one.
    """
    several = [name for name in made[0].options if len({one.options[name] for one in made}) > 1]
    numbers = [name for name in several if not isinstance(made[0].options[name], str)]
    return (numbers or several or [""])[0]


def pictures(folder: Path, found: Sequence[Record]) -> list[Path]:
    """Return a PNG for each suite and base that has an option with several values.

    Wants matplotlib.
    """
    written: list[Path] = []
    for (suite, base), records in by_base(found).items():
        made = points(records)
        axis = axis_of(made) if made else ""
        if axis:
            path = folder / f"sweep-{suite}-{len(written) + 1}.png"
            title = f"{suite}, {records[0]['revision']}: ratio to {base} of the same run, pooled, with its 95% interval"
            chart.sweep(str(path), title, axis, panels(made, axis))
            written.append(path)
    return written


def panels(made: Iterable[Point], axis: str) -> dict[str, dict[str, list[chart.Spot]]]:
    """Return the points by figure, then by line: a subject with one choice of the other options."""
    found: dict[str, dict[str, list[chart.Spot]]] = {}
    for one in made:
        rest = options_text({name: value for name, value in one.options.items() if name != axis})
        line = f"{one.subject}, {rest}" if rest else one.subject
        spots = found.setdefault(one.figure, {}).setdefault(line, [])
        spots.append(chart.Spot(one.options[axis], *one.ratio))
    return found
