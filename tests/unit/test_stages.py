# SPDX-License-Identifier: Apache-2.0
"""The runner of the stages: which files run in which labs, and what a stage comes to."""

from __future__ import annotations

import sys

import pytest

from tests import __main__ as stages
from tests.__main__ import NO_TESTS, SILENT, Job, Process


@pytest.mark.parametrize(
    ("codes", "chosen", "status"),
    [
        ([0, 0], False, 0),
        ([0, 1, 0], False, 1),
        ([0, -9], False, -9),  # a lab that was killed
        ([0, NO_TESTS], False, NO_TESTS),  # nothing was chosen, and still no test
        ([0, NO_TESTS], True, 0),
        ([1, NO_TESTS], True, 1),
        ([NO_TESTS, NO_TESTS], True, NO_TESTS),
        ([0, 124], True, 124),
        ([SILENT], False, SILENT),
    ],
)
def test_a_stage_is_as_good_as_its_worst_file(codes: list[int], chosen: bool, status: int) -> None:
    assert stages.worst(codes, chosen=chosen) == status


def test_what_is_about_vt_x_runs_with_ept_and_without() -> None:
    jobs = stages.jobs("vmx")
    assert len(set(jobs)) == len(jobs)
    with_ept = {job.file for job in jobs if not job.shadow}
    assert (
        with_ept
        == {job.file for job in jobs if job.shadow}
        == {"test_bare", "test_lies", "test_linux"}
    )
    assert not any(job.shadow for job in stages.jobs("lab"))


def test_a_lab_without_ept_runs_what_is_marked() -> None:
    command = stages.vmx_command(Job("vmx", "test_bare", shadow=True), ["-k", "page"])
    lab, test = command[: command.index("--")], command[command.index("--") + 1 :]
    assert "--no-npt" in lab
    assert test[test.index("-m", 2) + 1] == stages.SHADOW
    assert test[-3:] == ["tests/vmx/test_bare.py", "-k", "page"]
    command = stages.vmx_command(Job("vmx", "test_bare"), [])
    assert "--no-npt" not in command
    assert stages.SHADOW not in command


def test_each_lab_keeps_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ARTEFACTS", "/kept")
    commands = [stages.vmx_command(job, []) for job in stages.jobs("vmx")]
    logs = [command[command.index("--log") + 1] for command in commands]
    assert len(set(logs)) == len(logs)


def test_a_lab_that_falls_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "SILENT_SECONDS", 0.2)
    script = "import signal, time; print('here', flush=True); time.sleep(1000)"
    code, output = stages.watch([sys.executable, "-c", script])
    assert code == SILENT
    assert output.startswith(b"here\n")
    assert b"nothing was said" in output


@pytest.mark.parametrize("code", [0, 1, NO_TESTS, 124])
def test_the_status_of_a_lab_is_told(code: int) -> None:
    assert stages.watch(["sh", "-c", f"echo said; exit {code}"]) == (code, b"said\n")


def test_only_a_silent_lab_runs_again(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    outcomes = [(SILENT, b"one"), (0, b"two"), (124, b"three")]
    monkeypatch.setattr(stages, "watch", lambda command: outcomes.pop(0))
    process = Process(str(Job("vmx", "test_linux", shadow=True)), [])
    assert stages.shown(process) == 0
    assert stages.shown(process) == 124
    out = capfdbinary.readouterr().out
    assert b"-- vmx/test_linux, shadow paging: status 0" in out
    assert b"one\nonce more\ntwo" in out
    assert outcomes == []


def test_a_failed_file_fails_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a run without EPT."""
    ran: list[str] = []

    def run(process: Process) -> int:
        ran.append(process.what)
        return int(process.what == str(Job("vmx", "test_lies", shadow=True)))

    monkeypatch.setattr(stages, "shown", run)
    assert stages.run_in_labs("vmx", []) == 1
    assert set(ran) == set(map(str, stages.jobs("vmx")))


@pytest.mark.parametrize("stage", ["unit", "local", "host"])
def test_each_file_of_a_stage_runs_once(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(process: Process) -> int:
        ran.extend(word for word in process.command if word.startswith("tests/"))
        return 0

    monkeypatch.setattr(stages, "shown", run)
    assert stages.run_piles(stage, []) == 0
    found = (stages.ROOT / "tests" / stage).glob("test_*.py")
    assert sorted(ran) == sorted(f"tests/{stage}/{path.name}" for path in found)
