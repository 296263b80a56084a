# SPDX-License-Identifier: Apache-2.0
"""Ends of the lab: a limit of time, signals, an emulator that dies; and faults of its caller."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError, StateError
from pyvmm.lab import Lab, LabError, LabTimeout
from tests.support.emulators import QEMU, is_gone, wait_for_emulator
from tests.support.lab_program import expect, finished, program


@pytest.mark.rest
def test_timeout() -> None:
    process = program("--timeout", "2", "--", "sleep", "1000")
    emulator = wait_for_emulator(process, QEMU)
    status, _, err = finished(process)
    assert status == 124
    assert b"did not end in the time" in err
    assert is_gone(emulator)


def test_timeout_ends_the_lab() -> None:
    with Lab() as machine:
        pid = machine.pid
        with pytest.raises(LabTimeout):
            machine.run(["sleep", "1000"], stdin=subprocess.DEVNULL, timeout=1)
        assert is_gone(pid)
        with pytest.raises(StateError):
            machine.run(["true"])


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.rest),
    ],
)
@pytest.mark.parametrize("booted", [pytest.param(False, marks=pytest.mark.rest), True])
def test_a_signal_ends_it(number: int, status: int, booted: bool) -> None:
    process = program("--", "sh", "-c", "echo on; sleep 1000")
    emulator = wait_for_emulator(process, QEMU)
    if booted:
        expect(process, b"on\n")
    process.send_signal(number)
    code, _, err = finished(process)
    assert code == status, err
    assert is_gone(emulator)


def test_the_emulator_does_not_outlive_its_starter() -> None:
    process = program("--", "sh", "-c", "echo on; sleep 1000")
    expect(process, b"on\n")
    emulator = wait_for_emulator(process, QEMU)
    process.kill()
    finished(process)
    assert is_gone(emulator)


def test_nothing_stays_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/tmp")), set(os.listdir("/proc/self/fd"))
    with Lab() as machine:
        pid = machine.pid
        assert machine.run(["true"], stdin=subprocess.DEVNULL) == 0
    assert is_gone(pid)
    assert set(os.listdir("/proc/self/fd")) == before[1]
    left = {name for name in set(os.listdir("/tmp")) - before[0] if "lab" in name or "qemu" in name}
    assert not left


def test_the_outer_kernel_dies() -> None:
    process = program("--", "sh", "-c", "echo last words >/dev/kmsg; echo c >/proc/sysrq-trigger")
    status, _, err = finished(process)
    assert status == 125
    assert b"the outer machine ended by itself" in err
    assert b"sysrq triggered crash" in err


@pytest.mark.rest
def test_the_emulator_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "console"
    process = program("--log", str(log), "--", "sh", "-c", "echo on; sleep 1000")
    expect(process, b"on\n")
    os.kill(wait_for_emulator(process, QEMU), signal.SIGKILL)
    status, _, err = finished(process)
    assert status == 125
    assert b"ended by itself" in err
    assert log.exists()


# -- faults of the caller


@pytest.mark.parametrize(
    ("qemu", "said"),
    [
        ("/nonexistent/qemu", "PYVMM_QEMU"),
        ("false", "ended by itself"),
        ("true", "ended by itself"),
    ],
)
def test_an_emulator_that_does_not_work(
    qemu: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_QEMU", qemu)
    with pytest.raises(LabError, match=said), Lab():
        pass


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_QEMU", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LabError, match="install the Debian package 'qemu-system-x86'"), Lab():
        pass


def test_more_memory_than_there_is() -> None:
    with pytest.raises(LabError, match=r"(?s)ended by itself.*memory"), Lab(memory="100000G"):
        pass


def test_a_log_that_cannot_be_written() -> None:
    with (
        pytest.raises(ConfigError, match="--log /nonexistent/log: No such file"),
        Lab(log="/nonexistent/log"),
    ):
        pass


def test_a_share_that_is_no_directory() -> None:
    with pytest.raises(ConfigError, match="not a directory"):
        Lab(share="/etc/passwd")
