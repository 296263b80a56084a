# SPDX-License-Identifier: Apache-2.0
"""`pyvmm bench` on this machine's KVM: a suite is measured, and a report made of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.report import record
from bench.suites import exits


def test_a_suite_is_measured_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["bench", "exits", "--rounds", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(out / "report.html") in done.stdout
    found = record.load(out / "exits.json")
    assert set(found["samples"]) == {exits.BARE, exits.IN_C, exits.IN_PYTHON}
    assert all(len(values["exit"]) == 2 for values in found["samples"].values())
    assert found["base"] == exits.BARE
    names = {path.name for path in out.iterdir()}
    assert {"exits.json", "exits.txt", "exits.png", "report.html", "summary.md"} <= names
    assert "ratio to bare C loop" in (out / "exits.txt").read_text()
