# SPDX-License-Identifier: Apache-2.0
"""The table of guests by hosts: what is run for a host, and what is written of it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from pyvmm.lab import emulator
from tests import matrix
from tests.matrix import CANNOT, FINE, Host

HOST = Host("6.12", "shadow", 2)
GOOD = {"boots": FINE, "symcalls": CANNOT, "bypass": CANNOT}


def test_a_host_is_a_lab_of_its_own() -> None:
    command = matrix.command(HOST)
    assert command[command.index("--cpus") + 1] == "2"
    assert "--no-npt" in command
    assert "--no-npt" not in matrix.command(HOST._replace(paging="nested"))
    chosen = matrix.environment(HOST)
    assert (chosen["PYVMM_LAB_LINUX"], chosen["PYVMM_QEMU"]) == ("6.12", emulator.NAME)


def test_what_a_lab_did_not_say_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that ended in the middle."""
    said = f"noise\n{matrix.MARK}{json.dumps({'guest': '6.12', **GOOD})}\npanic\n"

    def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(args, 125, said, "")

    monkeypatch.setattr(subprocess, "run", run)
    found = matrix.measured(HOST)
    assert found["6.12"] == GOOD
    assert list(found) == [guest.name for guest in matrix.GUESTS]
    assert "status 125" in found["6.1"]["boots"]
    assert "panic" in found["6.1"]["boots"]


def test_the_table_says_what_does_not_work() -> None:
    cells = {guest.name: GOOD for guest in matrix.GUESTS}
    cells["6.1"] = {"boots": FINE, "symcalls": FINE, "bypass": "AssertionError: no page"}
    record = {"revision": "abc", "hosts": {str(HOST): cells}}
    table = matrix.table(record)
    assert "at abc" in table
    assert "| boots | boots, symcalls, **no bypass** | boots |" in table
    assert matrix.failures(record) == [f"{HOST}: 6.1: bypass: AssertionError: no page"]
