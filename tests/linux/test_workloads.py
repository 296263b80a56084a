# SPDX-License-Identifier: Apache-2.0
"""Programs that people know, in guests short of memory: each finishes, and found its memory as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.loads import programs
from bench.peers import arms
from tests.support.benchmark import measured

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.rest

SMALL = ("--seconds", "0.3", "--requests", "500")
TWO = ("--cpus", "2", "--processes", "2")
GUPS = {programs.UPDATE, programs.FILLING}
REDIS = {programs.REQUEST, programs.P50, programs.P99, programs.P999}
OTHERS = {programs.COMPRESSED, programs.TRIAD, programs.KEY, programs.LOOKUP, programs.SWEPT}


def figures(folder: Path, arm: str, *more: str) -> dict[str, float]:
    """Those of one guest for each program. A program that found something wrong ends the suite with an error."""
    record = measured("workloads", folder, *SMALL, "--arm", arm, *more)
    (found,) = record["samples"].values()
    return {name: value for name, (value,) in found.items()}


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--program", name)]


def test_every_program(tmp_path: Path) -> None:
    found = figures(tmp_path, arms.DIRECT)
    assert set(found) == GUPS | REDIS | OTHERS
    assert min(found.values()) > 0
    assert found[programs.P50] <= found[programs.P99] <= found[programs.P999]


def test_with_stock_swap(tmp_path: Path) -> None:
    assert set(figures(tmp_path, arms.STOCK, *only("gups"))) == GUPS


def test_processes_on_two_vcpus(tmp_path: Path) -> None:
    found = figures(tmp_path, arms.DIRECT, *TWO, *only("gups", "redis"))
    assert set(found) == GUPS | REDIS


def test_under_qemu(tmp_path: Path) -> None:
    """It swaps very slowly in the lab: this one does not."""
    found = figures(tmp_path, arms.QEMU, *TWO, "--factor", "0.25", *only("sqlite"))
    assert set(found) == {programs.LOOKUP}
