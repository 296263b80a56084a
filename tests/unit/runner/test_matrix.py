# SPDX-License-Identifier: Apache-2.0
"""The table of guests by hosts: what is run for a host, and what is written of it."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import ConfigError
from pyvmm.guest import inventory
from pyvmm.lab import emulator
from tests.runner import matrix
from tests.runner.matrix import CANNOT, FINE, Host

HOST = Host("svm", "6.12", "shadow", 2)
VMX = Host("vmx", "6.12", "shadow", 1)
GOOD = {"boots": FINE, "symcalls": CANNOT, "bypass": CANNOT}


@pytest.mark.parametrize("option", ["--json", "--table"])
def test_a_file_that_cannot_be_written_is_found_out_before_anything_is_measured(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "prepare", lambda: pytest.fail("it went on"))
    with pytest.raises(ConfigError, match=f"{option} .*: Is a directory"):
        matrix.main([option, str(tmp_path)])


def test_a_host_is_a_lab_of_its_own() -> None:
    command = matrix.command(HOST)
    assert command[command.index("--cpus") + 1] == "2"
    assert "--no-npt" in command
    assert "--no-npt" not in matrix.command(HOST._replace(paging="nested"))
    chosen = matrix.environment(HOST)
    assert (chosen["PYVMM_LAB_LINUX"], chosen["PYVMM_QEMU"]) == ("6.12", emulator.NAME)


def test_guests_go_along_into_a_lab_with_vt_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not see this machine's cache, has one CPU, and chooses neither QEMU nor Debian's kernel."""
    monkeypatch.setattr(inventory, "guest_files", lambda name: ["/cache/shared", f"/cache/{name}"])
    command = matrix.command(VMX)
    before = command[: command.index("--")]
    assert before[before.index("--arch") + 1] == "vmx"
    assert "--no-npt" in before
    assert "--no-npt" not in matrix.command(VMX._replace(paging="nested"))
    assert not {"--cpus", "--memory"} & set(before)
    packed = [after for word, after in pairwise(before) if word == "--pack"]
    assert packed == sorted(["/cache/shared", *(f"/cache/{guest.name}" for guest in matrix.GUESTS)])
    assert matrix.environment(VMX) == dict(os.environ)


def test_hosts_have_names_of_their_own() -> None:
    names = list(map(str, matrix.HOSTS))
    assert len(set(names)) == len(names)
    assert str(VMX) in names
    assert matrix.hosts([str(VMX)]) == [VMX]
    assert matrix.hosts(None) == list(matrix.HOSTS)
    with pytest.raises(SystemExit):
        matrix.main(["--host", "Linux 2.2"])


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
    record = {str(HOST): {"revision": "abc", "cells": cells}}
    table = matrix.table(record)
    assert f"| {HOST} | abc | boots |" in table
    assert "| boots | boots, symcalls, **no bypass** | boots |" in table
    assert matrix.failures(record) == [f"{HOST}: 6.1: bypass: AssertionError: no page"]


def test_a_part_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other hosts stay as they were measured, one that there is no longer goes, and only the new ones count."""
    bad = {"boots": "no", "symcalls": CANNOT, "bypass": CANNOT}
    before = {
        host: {"revision": "old", "cells": {guest.name: bad for guest in matrix.GUESTS}}
        for host in (str(HOST), str(VMX), "a host of old")
    }
    record, table = tmp_path / "record.json", tmp_path / "table.md"
    record.write_text(json.dumps(before))
    good = {guest.name: GOOD for guest in matrix.GUESTS}
    monkeypatch.setattr(matrix.labs, "at_a_time", lambda: 2)
    monkeypatch.setattr(matrix, "prepare", lambda: None)
    monkeypatch.setattr(matrix, "measured", lambda host: good)
    words = ["--json", str(record), "--table", str(table), "--host", str(VMX)]
    assert matrix.main(words) == 0
    found = json.loads(record.read_text())
    assert found[str(HOST)] == before[str(HOST)]
    assert found[str(VMX)]["cells"] == good
    assert set(found) == {str(HOST), str(VMX)}
    lines = table.read_text().splitlines()
    assert any(line.startswith(f"| {HOST} | old | **no boots** |") for line in lines)
    assert any(line.startswith(f"| {VMX} | ") and "| boots |" in line for line in lines)
