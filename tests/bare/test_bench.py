# SPDX-License-Identifier: Apache-2.0
"""The symcall benchmark runs and yields all its rows; what it takes is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.loads import clock, naive, ours, symguest
from bench.report import steps
from bench.suites.symcall import (
    AIMS,
    BARE_IOCTLS,
    BARE_SYNC,
    CALL,
    EXIT,
    KVM_IOCTLS,
    PYTHON_CALL,
    Bare,
)
from tests.support.tree import ROOT


def test_suite_yields_every_row(tmp_path: Path) -> None:
    record, picture = tmp_path / "symcall.json", tmp_path / "symcall.png"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "symcall", "--rounds", "2", "--exits", "60",
         "--json", str(record), "--plot", str(picture)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(record.read_text())
    assert {EXIT, CALL, PYTHON_CALL, BARE_SYNC, BARE_IOCTLS, KVM_IOCTLS} <= set(found["samples"])
    for subject, figures in found["samples"].items():
        assert set(figures) == {"CPL 0", "CPL 3"}, subject
        assert all(len(values) == 2 and min(values) > 0 for values in figures.values()), subject
    assert set(found["remote"]) == set(ours.WHILE)
    assert len(found["aims"]) == len(AIMS)
    assert len(found["steps"]) == 8
    for name, shares in found["steps"].items():
        assert sum(share["part"] for share in shares) == pytest.approx(1), name
        assert {steps.EXIT, steps.HANDLER, steps.VMM} <= {share["step"] for share in shares}, name
    assert "aims" in done.stdout


def test_a_call_from_the_doorbell_is_two_entries_and_nothing_else(tmp_path: Path) -> None:
    library = clock.library(str(tmp_path))
    for kind in ("call", "python-call"):
        command = [sys.executable, "-m", "bench.loads.ours", kind, "0", "200"]
        cut = steps.rounds_of(clock.trace(library, command, 300), 200, symguest.WARM_UP)
        found = {share.step: share.times for share in steps.shares(cut)}
        assert {steps.EXIT: 1, steps.HANDLER: 1}.items() <= found.items()
        assert set(found) == {steps.EXIT, steps.HANDLER, steps.VMM}, kind


@pytest.mark.parametrize("flags", ours.CPLS.values(), ids=list(ours.CPLS))
def test_every_way_of_calling_answers_right(tmp_path: Path, flags: int) -> None:
    bare = Bare(str(tmp_path), clock.library(str(tmp_path)))
    for method in ("plain", "sync", "regs"):
        records = bare.run(method, flags, 50)
        assert len(steps.rounds_of(records, 50, symguest.WARM_UP)) > 40
    assert naive.run(ours.PORT_IN_C, flags, 20, calling=True) > 0
    assert ours.call_in_c(flags, 20) > 0
    assert ours.call_in_python(flags, 20) > 0


def test_calls_in_a_row_to_a_halted_vcpu() -> None:
    found = ours.remote(symguest.FLAG_HALT, 100)
    assert 0 < found["median"] <= found["slowest"]
