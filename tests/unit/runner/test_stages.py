# SPDX-License-Identifier: Apache-2.0
"""The runner of the stages: which files run in which labs, and what a stage comes to."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests import __main__ as stages
from tests.__main__ import NO_TESTS, Choice, Job, Part
from tests.fuzz.targets import TARGETS
from tests.runner import needs, process
from tests.runner.process import SILENT, End, Process
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


#: For pytest, of each of the two halves.
EACH, REST = Choice().words, Choice(rest=True).words


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([0, 0], 0),
        ([0, 1, 0], 1),
        ([0, -9], -9),  # a lab that was killed
        ([0, NO_TESTS], NO_TESTS),  # a file had no test
        ([], NO_TESTS),  # nothing was chosen
        ([0, 124], 124),
        ([SILENT], SILENT),
    ],
)
def test_a_stage_is_as_good_as_its_worst_file(codes: list[int], status: int) -> None:
    assert stages.worst(codes) == status


def test_what_is_about_vt_x_runs_with_ept_and_as_a_rest_without() -> None:
    found = stages.jobs("vmx", Choice())
    assert {job.files for job in found} == {("test_bare",), ("test_linux",)}
    assert not any(job.shadow for job in found)
    found = stages.jobs("vmx", Choice(rest=True))
    assert {job.files for job in found if job.shadow} == {
        ("test_bare",),
        ("test_lies",),
        ("test_linux",),
    }
    assert {job.files for job in found if not job.shadow} == {("test_lies",), ("test_linux",)}
    assert not any(job.shadow for job in stages.jobs("linux", Choice(rest=True)))


def test_files_share_a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "labs_at_a_time", lambda: 3)
    jobs = stages.jobs("linux", Choice())
    names = [name for job in jobs for name in job.files]
    assert sorted(names) == sorted(stages.file_names("linux", EACH))
    assert len(jobs) == 3 * stages.PILES
    long = [sum(name in stages.LONG for name in job.files) for job in jobs]
    assert max(long) - min(long) <= 1
    assert str(Job("linux", ("test_a", "test_b", "test_c"))) == "linux/test_a and 2 more"


def test_a_lab_without_ept_runs_what_is_marked() -> None:
    words = (*REST, "-k", "page")
    found = stages.jobs("vmx", Choice(rest=True, options=("-k", "page")))
    shadow = next(job for job in found if job.shadow)
    assert shadow.words == (*words, "-m", stages.SHADOW)
    command = stages.vmx_command(shadow)
    lab, test = command[: command.index("--")], command[command.index("--") + 1 :]
    assert "--no-npt" in lab
    assert test[-len(shadow.arguments) :] == shadow.arguments
    assert "--no-npt" not in stages.vmx_command(shadow._replace(shadow=False))


def test_each_lab_keeps_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ARTEFACTS", "kept")
    commands = [stages.vmx_command(job) for job in stages.jobs("vmx", Choice(rest=True))]
    logs = [command[command.index("--log") + 1] for command in commands]
    assert len(set(logs)) == len(logs)


def test_a_lab_that_falls_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENT_SECONDS", 0.2)
    script = "import signal, time; print('here', flush=True); time.sleep(1000)"
    code, output = process.watch([sys.executable, "-c", script])
    assert code == SILENT
    assert output.startswith(b"here\n")
    assert b"nothing was said" in output


@pytest.mark.parametrize("code", [0, 1, NO_TESTS, 124])
def test_the_status_of_a_lab_is_told(code: int) -> None:
    assert process.watch(["sh", "-c", f"echo said; exit {code}"]) == (code, b"said\n")


@pytest.mark.parametrize("code", [0, 1, 124, SILENT])
def test_a_file_runs_once(
    code: int, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A second try would hide what hangs now and then."""
    outcomes = [(code, b"what it said")]
    monkeypatch.setattr(process, "watch", lambda command: outcomes.pop(0))
    assert process.shown(Process(str(Job("vmx", ("test_linux",), shadow=True)), [])).code == code
    out = capfdbinary.readouterr().out
    assert f"-- vmx/test_linux, shadow paging: status {code}, 0 s".encode() in out
    assert b"what it said" in out


@pytest.mark.parametrize("rest", [False, True])
def test_each_job_of_a_stage_has_its_lab(rest: bool) -> None:
    found = stages.in_labs("vmx", Choice(rest=rest))
    assert [process.what for process in found] == list(
        map(str, stages.jobs("vmx", Choice(rest=rest)))
    )


def test_the_files_of_all_stages_are_one_queue(ran: list[str]) -> None:
    files = {name: Process(name, []) for name in ("a", "fails", "c", "d", "e")}
    parts = [
        Part("unit", 1, [files["a"], files["fails"]]),
        Part("bare", 1, [files["c"]]),
        Part("vmx", 0, [files["d"]]),
        Part("linux", 1, [files["e"]]),
    ]
    ends = stages.run(parts)
    assert [part for part, _ in ends] == parts
    assert [[end.code for end in each] for _, each in ends] == [[0, 1], [0], [0], [0]]
    assert ran == list(files)


@pytest.mark.parametrize(
    ("count", "piles"),
    [
        (1, [("a", "b", "c")]),
        (2, [("a", "c"), ("b",)]),
        (3, [("a",), ("b",), ("c",)]),
        (9, [("a",), ("b",), ("c",)]),
    ],
)
def test_no_pile_is_empty(count: int, piles: list[tuple[str, ...]]) -> None:
    assert stages.in_piles("abc", count) == piles


@pytest.mark.parametrize("stage", ["unit", "bare", "qemu", "lab"])
def test_each_file_of_a_stage_runs_once(stage: str) -> None:
    def files(choice: Choice) -> list[str]:
        words = [word for process in stages.in_processes(stage, choice) for word in process.command]
        return [word for word in words if word.startswith("tests/")]

    ran = files(Choice())
    assert len(set(ran)) == len(ran)
    if stage in stages.STAGES_OF_REST:
        ran += files(Choice(rest=True))
    found = (stages.ROOT / "tests" / stage).rglob("test_*.py")
    assert set(ran) == {str(path.relative_to(stages.ROOT)) for path in found}


def test_the_rest_has_a_run_of_its_own() -> None:
    """Each test is in one of the two, and no lab starts for a file that has none."""
    assert EACH == ("-m", "not rest")
    assert REST == ("-m", "rest")
    for stage in ("bare", "qemu", "lab", "linux"):
        assert stages.file_names(stage, REST)
    assert "test_workloads" in stages.file_names("linux", REST)
    assert "test_workloads" not in stages.file_names("linux", EACH)


def test_only_files_with_tests_of_the_choice_run() -> None:
    assert stages.file_names("vmx", (*EACH, "-k", "boots", "-q")) == ["test_linux"]
    assert stages.file_names("vmx", (*EACH, "-k", "no_test_has_this_name")) == []


def test_a_file_that_cannot_be_read_runs_and_so_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tests" / "broken"
    folder.mkdir(parents=True)
    (folder / "test_good.py").write_text("def test_it(): pass\n")
    (folder / "test_bad.py").write_text("import no_module_has_this_name\n")
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    assert stages.file_names("broken", ()) == ["test_bad", "test_good"]


@pytest.mark.parametrize(
    ("stages", "rest", "built"),
    [
        ({"linux"}, False, ["guest 6.12"]),
        ({"linux", "vmx"}, False, ["guest 6.12", "the VT-x lab"]),
        ({"linux"}, True, ["guest 6.12-debug", "guest 6.1", "guest 6.12"]),
    ],
)
def test_only_kernels_that_are_tested_are_built(
    stages: set[str], rest: bool, built: list[str]
) -> None:
    assert [process.what for process in needs.builds(stages, rest=rest)][:-1] == built


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the runner runs, in order; what "fails" in its name fails."""
    ran: list[str] = []

    def run(process: Process) -> End:
        ran.append(process.what)
        return End(int("fails" in process.what), 1.0)

    monkeypatch.setattr(process, "shown", run)
    monkeypatch.setattr(stages, "streamed", run)
    monkeypatch.setattr(stages, "number_of", lambda cpus: 1)
    monkeypatch.setattr(stages, "part_of", lambda s, choice: Part(s, 1, [Process(s, [])]))
    monkeypatch.setattr(sys, "argv", ["tests"])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.chdir(stages.ROOT)
    return ran


@pytest.mark.parametrize(("kernel", "status"), [("kernel", 0), ("kernel that fails", 1)])
def test_what_boots_no_kernel_runs_beside_the_builds(
    kernel: str,
    status: int,
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without their kernel the others do not begin."""
    monkeypatch.setattr(needs, "builds", lambda stages, rest: [Process(kernel, [])])
    assert stages.main() == status
    others = [] if status else ["linux", "vmx", "lab", "qemu"]
    assert ran == [kernel, "unit", "bare", "fuzz", *others]
    lines = capsys.readouterr().out.splitlines()[-8 + 4 * status :]
    names = ["needs", "unit", "bare", "fuzz", *(["qemu", "lab", "vmx", "linux"] * (not status))]
    assert [line.split()[0] for line in lines] == names
    assert lines[0].split()[1] == ("FAILED" if status else "ok")


def test_each_fuzz_target_has_its_process() -> None:
    part = stages.part_of("fuzz", Choice())
    assert [process.what for process in part.processes] == [f"fuzz/{name}" for name in TARGETS]
    for each in part.processes:
        assert each.command[-3:] == ["--seconds", str(stages.FUZZ_SECONDS), each.what[5:]]


def test_tests_that_boot_no_kernel_build_none(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests", "bare", "unit"])
    assert stages.main() == 0
    assert ran == ["bare", "unit"]


def test_a_signal_ends_what_runs_and_begins_no_more(tmp_path: Path) -> None:
    code = f"""
import signal
from tests.runner.process import Process, at_a_time, end_all

signal.signal(signal.SIGTERM, end_all)
script = "echo $$ > {tmp_path}/$0; exec sleep 1000"
at_a_time(2, [Process(name, ["sh", "-c", script, name]) for name in ("one", "two", "three")])
"""
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=stages.ROOT)
    files = [tmp_path / name for name in ("one", "two")]
    until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 128 + signal.SIGTERM
    assert not any(psutil.pid_exists(int(file.read_text())) for file in files)
    assert not (tmp_path / "three").exists()


def test_sources_are_compiled_before_labs_share_them(tmp_path):
    (tmp_path / "module.py").write_text("number = 1\n")
    needs.compile_sources(tmp_path)
    assert list((tmp_path / "__pycache__").glob("module.*.pyc"))
    (tmp_path / "wrong.py").write_text("number =\n")
    with pytest.raises(SystemExit, match="does not compile"):
        needs.compile_sources(tmp_path)
