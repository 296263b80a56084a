# SPDX-License-Identifier: Apache-2.0
"""All records of a folder as one page, with a summary in Markdown and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.report import picture, points, results
from bench.report import record as records
from bench.report.results import Row
from pyvmm import logbars

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
tr.figure td { font-weight: bold; border: 0; padding-top: .8em }
.met { color: #1a7a2e } .missed { color: #b3261e } .notes, .machine { color: #555 } img { max-width: 100% }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } td, th { border-color: #444 } img { background: #fff }
  .met { color: #6fcf83 } .missed { color: #ff8a80 } .notes, .machine { color: #aaa }
}
"""

LAB = """\
These figures come from a CPU that an emulator makes: each instruction takes about as long as any other, and memory is
as fast as a cache. How much code a path has shows; what caches, TLBs and the world switches of a real processor make of
it does not. The same command on real hardware says what that does."""
COUNTED = """\
Time was counted in instructions, 4 ns each, whatever the host did. The spread is that of the work itself."""
SOFTWARE = """\
This KVM emulates guests' kernel code in software, so that an exit costs little more than other system calls."""


def caution(machine: dict[str, Any]) -> str:
    """Return what figures from such a machine can tell."""
    lab = str(machine.get("lab", ""))
    if lab:
        return f"{LAB} {COUNTED}" if lab.endswith("-icount") else LAB
    return "" if machine.get("kvm") in ("kvm_amd", "kvm_intel") else SOFTWARE


def table(record: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return all figures, as HTML."""
    base = html.escape(record["base"])
    lines = [
        f"<table><tr><th></th><th>median, {record['unit']}</th><th>quartiles</th><th>samples</th>"
        f"<th>ratio to {base} (95%)</th><th>chance of none</th></tr>"
    ]
    figure = None
    for found in rows:
        if found.figure != figure:
            figure = found.figure
            lines.append(f'<tr class="figure"><td colspan="6">{html.escape(figure)}</td></tr>')
        cells = (
            html.escape(found.subject),
            results.number(found.median),
            f"{results.number(found.low)} to {results.number(found.high)}",
            str(found.n),
            results.ratio_text(found),
            html.escape(results.chance_text(found)),
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def aims_table(record: dict[str, Any]) -> str:
    """Return each aim with what was measured, as HTML."""
    if not record["aims"]:
        return ""
    lines = ["<table><tr><th>aim</th><th>at most</th><th>ratio (95%)</th><th></th></tr>"]
    for aim in record["aims"]:
        kind = "met" if aim["word"].startswith("met") else "missed"
        ratio = results.interval(aim["ratio"], aim["low"], aim["high"])
        lines.append(
            f"<tr><td>{html.escape(aim['aim'])}</td><td>{limit_text(aim)}</td><td>{ratio}</td>"
            f'<td class="{kind}">{html.escape(aim["word"])}</td></tr>'
        )
    return "\n".join([*lines, "</table>"])


def limit_text(aim: dict[str, Any]) -> str:
    """Return what it is to be at most."""
    limit: float = aim["limit"]
    whole = round(1 / limit)
    return f"1/{whole}" if whole > 1 and abs(whole * limit - 1) < 1e-9 else f"{limit:.4g}"


def machine_lines(machine: dict[str, Any]) -> str:
    """Return where it was measured."""
    shown = ("cpu", "cpus", "kvm", "paging", "lab", "kernel", "python", "qemu", "load", "time")
    parts = [f"{key}: {machine[key]}" for key in shown if machine.get(key) not in (None, "")]
    return html.escape("; ".join(parts))


def section(record: dict[str, Any], rows: Sequence[Row], image: Path) -> str:
    """Return one suite."""
    parts = [f"<h2>{html.escape(records.name(record))}</h2>"]
    parts.append(
        f'<p class="machine">{html.escape(record["revision"])}; {machine_lines(record["machine"])}</p>'
    )
    notes = (record["notes"], caution(record["machine"]))
    parts += [f'<p class="notes">{html.escape(note)}</p>' for note in notes if note]
    parts.append(aims_table(record))
    if image.exists():
        parts.append(image_html(image))
    parts.append(table(record, rows))
    return "\n".join(parts)


def image_html(image: Path) -> str:
    """Return a picture that is part of the page."""
    data = base64.b64encode(image.read_bytes()).decode()
    return f'<p><img alt="" src="data:image/png;base64,{data}"></p>'


def summary(found: Iterable[tuple[dict[str, Any], Sequence[Row]]]) -> str:
    """Return the aims of all suites and the medians, as Markdown."""
    lines = []
    for record, rows in found:
        machine = record["machine"]
        lines += [f"## {records.name(record)}", ""]
        lines += [
            f"{record['revision']}, {records.machine_text(machine)}, {machine['time']}.",
            "",
        ]
        if record["aims"]:
            lines += [
                "| aim | at most | ratio | 95% interval | |",
                "| --- | --- | --- | --- | --- |",
            ]
            lines += [
                f"| {aim['aim']} | {limit_text(aim)} | {results.number(aim['ratio'])} |"
                f" {results.number(aim['low'])} to {results.number(aim['high'])} | {aim['word']} |"
                for aim in record["aims"]
            ]
            lines.append("")
        lines += [
            f"| figure | subject | median, {record['unit']} | quartiles | ratio to {record['base']} (95%) | n |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row.figure} | {row.subject} | {results.number(row.median)} |"
            f" {results.number(row.low)} to {results.number(row.high)} | {results.ratio_text(row)} | {row.n} |"
            for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


def records_of(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the records in a folder, by their files; what else is there is left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(SystemExit):
            found[path] = records.load(path)
    return {path: one for path, one in found.items() if one.get("schema") == records.SCHEMA}


def sweep(folder: Path, found: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """Return what is said of all cells of a sweep together, as HTML and as Markdown; empty where
    there is none.
    """
    cells, absent = points.swept(found), points.missing(folder, found)
    if not cells:
        return "", ""
    images = points.pictures(folder, cells) if logbars.available() else []
    page = points.page(cells, absent) + "\n" + "\n".join(image_html(image) for image in images)
    return page + "\n", points.markdown(cells, absent) + "\n"


def write(folder: Path) -> Path:
    """Make the page of the records in a folder, and return it.

    Without matplotlib it has no pictures.
    """
    found = records_of(folder)
    if not found:
        raise SystemExit(f"bench: no record of a benchmark is in {folder}")
    judged = [(record, results.rows(record)) for record in found.values()]
    together, in_short = sweep(folder, list(found.values()))
    sections = []
    for path, (record, rows) in zip(found, judged, strict=True):
        image = path.with_suffix(".png")
        if logbars.available():
            picture.draw(record, image)
        sections.append(section(record, rows, image))
    page = folder / "report.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>pyvmm benchmarks</title>'
        f"<style>{STYLE}</style><h1>pyvmm benchmarks</h1>\n{together}"
        + "\n".join(sections)
        + "\n</html>\n",
        encoding="utf-8",
    )
    (folder / "summary.md").write_text(in_short + summary(judged), encoding="utf-8")
    return page
