# SPDX-License-Identifier: Apache-2.0
"""A sweep: its cells one after another here, or on the workers of a cluster; a record for each, and
which have none.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import record
from bench.report.points import MANIFEST
from bench.sweep import cell as cells
from bench.sweep.cell import Outcome, Spec
from bench.sweep.dispatch import Dispatch, Ended
from bench.sweep.matrix import Cell
from pyvmm.errors import HostError


class Sweep(NamedTuple):
    """The subject of a sweep, and its folder; `common` and `timeout` as in `Spec`; `scheduler` is
    "" for this machine.
    """

    cells: Sequence[Cell]
    common: dict[str, Any]
    folder: Path
    timeout: float
    scheduler: str = ""

    def specs(self) -> list[Spec]:
        """Return what workers are told."""
        code = (record.revision(), record.sources())
        return [Spec(cell, self.common, self.timeout, *code) for cell in self.cells]


def run(sweep: Sweep) -> dict[str, str]:
    """Measure all cells.

    Why each of those failed that did, by name; what an earlier sweep left of them is gone.
    """
    failed: dict[str, str] = {}
    left = [cell.name for cell in sweep.cells]
    for cell in sweep.cells:
        for ending in (".json", ".txt", ".png"):
            (sweep.folder / f"{cell.name}{ending}").unlink(missing_ok=True)
    try:
        with closing(ended_cells(sweep)) as endings:  # at once, however this ends
            for ended in endings:
                name = ended.spec.cell.name
                left.remove(name)
                reason = keep(sweep.folder, ended)
                if reason:
                    failed[name] = reason
                done = len(sweep.cells) - len(left)
                say(f"{name}: {reason or 'done'}, {done} of {len(sweep.cells)}")
    except HostError as error:  # the scheduler is gone; what is there is worth a report
        if len(left) == len(sweep.cells):
            raise
        failed.update(dict.fromkeys(left, str(error)))
    finally:
        write_manifest(sweep, failed)
    return failed


def say(text: str) -> None:
    """Print one line for the user."""
    print(f"bench: {text}", flush=True)


def ended_cells(sweep: Sweep) -> Generator[Ended]:
    """Yield each cell once, in the order in which they end."""
    if sweep.scheduler:
        from bench.sweep.cluster import Cluster

        with Cluster(sweep.scheduler) as pool:
            yield from Dispatch(pool, sweep.specs(), say).run()
        return
    for spec in sweep.specs():
        say(f"{spec.cell.name}: begins here")
        yield Ended(spec, cells.perform(spec), "", 1)


def keep(folder: Path, ended: Ended) -> str:
    """Write what a cell printed, and its record if it has one that can be believed; "" then, else
    why not.
    """
    name = ended.spec.cell.name
    if ended.outcome is None:
        return ended.failure
    (folder / f"{name}.txt").write_text(ended.outcome.said, encoding="utf-8")
    reason = wrong(ended.spec, ended.outcome)
    if reason:
        return reason
    found = {**(ended.outcome.record or {}), "cell": about(ended)}
    text = json.dumps(found, indent=1) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return ""


def about(ended: Ended) -> dict[str, Any]:
    """Return what the record of a cell says of it."""
    cell = ended.spec.cell
    assert ended.outcome is not None
    return {
        "name": cell.name,
        "options": cell.values,
        "run": cell.run,
        "host": ended.outcome.host,
        "worker": ended.address,
        "tries": ended.tries,
    }


def wrong(spec: Spec, outcome: Outcome) -> str:
    """Return why an outcome is no record of the cell; "" if it is one."""
    if outcome.status == cells.TIMED_OUT:
        return f"did not end within {spec.timeout:g} s on {outcome.host}"
    if outcome.status == cells.CHANGED:
        return (
            f"the sources on {outcome.host} are not those that the sweep began with; begin it again"
        )
    if outcome.status:
        last = outcome.said.strip().rpartition("\n")[2].strip() or "it said nothing"
        return f"failed on {outcome.host} (status {outcome.status}): {last}"
    found = outcome.record
    if found is None or not isinstance(found.get("samples"), dict):
        return f"left no record on {outcome.host}"
    if found.get("schema") != record.SCHEMA:
        return (
            f"its record from {outcome.host} has schema {found.get('schema')}, not {record.SCHEMA}"
        )
    if found.get("suite") != spec.cell.suite:
        return f"its record from {outcome.host} is one of the suite {found.get('suite')}"
    if not record.same_revision(spec.revision, str(found.get("revision"))):
        return (
            f"its record from {outcome.host} is of revision {found.get('revision')}, this is {spec.revision}; "
            f"check out the same there"
        )
    return ""


def write_manifest(sweep: Sweep, failed: dict[str, str]) -> None:
    """Say what the sweep was, so that a row that is missing is missed."""
    made = {
        "cells": [cell.name for cell in sweep.cells],
        "failed": failed,
        "revision": record.revision(),
    }
    (sweep.folder / MANIFEST).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
