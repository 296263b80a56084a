# SPDX-License-Identifier: Apache-2.0
"""The runner of the stages: which files run in which labs, and what a stage comes to."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests import __main__ as stages
from tests.__main__ import NO_TESTS, Choice
from tests.fuzz.targets import TARGETS
from tests.runner import labs, needs, process
from tests.runner.process import SILENT, End, Process
from tests.support.hosts import LINUX, SHADOW, VMX
from tests.support.tree import ROOT
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
    assert stages.status([End(code, 1.0) for code in codes]) == status


def files_of(processes: list[Process]) -> list[list[str]]:
    """Those that each process is to run."""
    return [[w for w in each.command if w.startswith("tests/")] for each in processes]


@pytest.fixture
def in_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's KVM is neither VT-x nor one that boots Linux; it has three CPUs for labs."""
    monkeypatch.setattr(labs, "is_here", lambda host: False)
    monkeypatch.setattr(labs, "at_a_time", lambda: 3)


@pytest.mark.usefixtures("in_labs")
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(
    ("stage", "host"), [("linux", LINUX), ("vmx", VMX)], ids=lambda value: value
)
def test_files_share_labs(stage: str, host: str, rest: bool) -> None:
    """Each file of the choice is in one of them, and those that take long are dealt out."""
    choice = Choice(rest)
    found = [each for each in stages.processes(stage, choice) if each.what.startswith(host)]
    ran = files_of(found)
    assert len(found) == min(3 * labs.PILES[host], sum(map(len, ran)))
    names = stages.file_names(("bare", "linux"), ("--host", host, *choice.words))
    assert sorted(name for pile in ran for name in pile) == sorted(names)
    long = [sum(stages.rank(name) < len(stages.LONG) for name in pile) for pile in ran]
    assert max(long) - min(long) <= 1
    for each in found:
        lab, test = each.command[: each.command.index("--")], each.command[-5:]
        assert ("vmx" in lab) == (host == VMX)
        assert "--no-npt" not in lab
        assert test[-4:] == ["--host", host, *choice.words]


@pytest.mark.usefixtures("in_labs")
def test_vt_x_without_ept_is_of_the_rest() -> None:
    options = ("-k", "page")
    assert not any(SHADOW in each.command for each in stages.processes("vmx", Choice()))
    found = stages.processes("vmx", Choice(rest=True, options=options))
    shadow = [each for each in found if SHADOW in each.command]
    assert shadow
    for each in shadow:
        lab = each.command[: each.command.index("--")]
        assert "--no-npt" in lab
        assert each.what.startswith("shadow/")
        assert each.command[-6:] == ["--host", SHADOW, *REST, *options]


@pytest.mark.parametrize("stage", ["vmx", "linux"])
def test_a_kvm_that_is_here_is_used(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labs, "is_here", lambda host: True)
    found = stages.processes(stage, Choice())
    assert found
    for each in found:
        assert each.command[1:3] == ["-m", "pytest"]
        assert each.command[-4:] == ["--host", stage, *EACH]


@pytest.mark.usefixtures("in_labs")
def test_each_lab_keeps_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ARTEFACTS", "kept")
    found = [*stages.processes("vmx", Choice(rest=True)), *stages.processes("linux", Choice())]
    logs = [each.command[each.command.index("--log") + 1] for each in found]
    assert len(set(logs)) == len(logs)
    assert all(re.fullmatch(r"kept/[\w-]+-console\.log", log) for log in logs)


@pytest.mark.parametrize(
    ("files", "what"),
    [(("tests/bare/test_a.py",), "linux/test_a"), (("test_a.py", "b", "c"), "linux/test_a and 2 more")],
)  # fmt: skip
def test_what_a_pile_is_called(files: tuple[str, ...], what: str) -> None:
    assert stages.called("linux", files) == what


def test_a_lab_that_falls_silent_is_ended() -> None:
    code, output = process.watch(["sh", "-c", "echo here; exec sleep 1000"], 3)
    assert code == SILENT
    assert output.startswith(b"here\n")
    assert b"nothing was said" in output


@pytest.mark.parametrize("code", [0, 1, NO_TESTS, 124])
def test_the_status_of_a_lab_is_told(code: int) -> None:
    assert process.watch(["sh", "-c", f"echo said; exit {code}"], 60) == (code, b"said\n")


@pytest.mark.parametrize("code", [0, 1, 124, SILENT])
def test_a_file_runs_once(
    code: int, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A second try would hide what hangs now and then."""
    outcomes = [(code, b"what it said")]
    monkeypatch.setattr(process, "watch", lambda command, silent: outcomes.pop(0))
    assert process.shown(Process("shadow/test_boot", [])).code == code
    out = capfdbinary.readouterr().out
    assert f"-- shadow/test_boot: status {code}, 0 s".encode() in out
    assert b"what it said" in out


def test_the_files_of_all_stages_are_one_queue(ran: list[str]) -> None:
    parts = {"unit": ["a", "fails"], "bare": ["c"], "linux": []}
    ends = stages.run(1, {name: [Process(w, []) for w in what] for name, what in parts.items()})
    assert list(ends) == list(parts)
    assert [[end.code for end in each] for each in ends.values()] == [[0, 1], [0], []]
    assert ran == ["a", "fails", "c"]


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
        return [name for pile in files_of(stages.processes(stage, choice)) for name in pile]

    ran = files(Choice())
    assert len(set(ran)) == len(ran)
    if stage in stages.STAGES_OF_REST:
        ran += files(Choice(rest=True))
    found = (ROOT / "tests" / stage).rglob("test_*.py")
    assert set(ran) == {str(path.relative_to(ROOT)) for path in found}


def test_every_folder_of_tests_is_of_a_stage() -> None:
    folders = {
        path.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/**/test_*.py")
    }
    assert folders == {folder for stage in stages.STAGES.values() for folder in stage.folders}


def test_the_rest_has_a_run_of_its_own() -> None:
    """Each test is in one of the two, and no lab starts for a file that has none."""
    assert EACH == ("-m", "not rest")
    assert REST == ("-m", "rest")
    assert "tests/linux/test_workloads.py" in stages.file_names(("linux",), REST)
    assert "tests/linux/test_workloads.py" not in stages.file_names(("linux",), EACH)


def test_only_files_with_tests_of_the_choice_run() -> None:
    words = (*EACH, "-k", "ping_and_tcp", "-q")
    assert stages.file_names(("linux",), words) == ["tests/linux/test_network.py"]
    assert stages.file_names(("linux",), (*EACH, "-k", "no_test_has_this_name")) == []


def test_a_file_that_cannot_be_read_runs_and_so_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tests" / "broken"
    folder.mkdir(parents=True)
    (folder / "test_good.py").write_text("def test_it(): pass\n")
    (folder / "test_bad.py").write_text("import no_module_has_this_name\n")
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    names = ["tests/broken/test_bad.py", "tests/broken/test_good.py"]
    assert stages.file_names(("broken",), ()) == names


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
    monkeypatch.setattr(stages, "number_of", lambda cpus: 1)
    monkeypatch.setattr(labs, "at_a_time", lambda: 1)
    monkeypatch.setattr(stages, "processes", lambda stage, choice: [Process(stage, [])])
    monkeypatch.setattr(sys, "argv", ["tests"])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.chdir(ROOT)
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
    found = stages.processes("fuzz", Choice())
    assert [process.what for process in found] == [f"fuzz/{name}" for name in TARGETS]
    for each in found:
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
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    files = [tmp_path / name for name in ("one", "two")]
    until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 128 + signal.SIGTERM
    assert not any(psutil.pid_exists(int(file.read_text())) for file in files)
    assert not (tmp_path / "three").exists()


def test_a_signal_ends_what_is_about_to_run() -> None:
    """It comes while the process is there, and nobody knows of it yet."""
    code = """
import os, signal, subprocess, threading
from tests.runner import process

handled = threading.Event()

def end(number, frame):
    try:
        process.end_all(number, frame)
    finally:
        handled.set()

class Late(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        handled.wait()

signal.signal(signal.SIGTERM, end)
subprocess.Popen = Late
process.at_a_time(1, [process.Process("one", ["sleep", "1000"])])
"""
    runner = subprocess.run([sys.executable, "-c", code], cwd=stages.ROOT, timeout=60, check=False)
    assert runner.returncode == 128 + signal.SIGTERM


def test_sources_are_compiled_before_labs_share_them(tmp_path):
    (tmp_path / "module.py").write_text("number = 1\n")
    needs.compile_sources(tmp_path)
    assert list((tmp_path / "__pycache__").glob("module.*.pyc"))
    (tmp_path / "wrong.py").write_text("number =\n")
    with pytest.raises(SystemExit, match="does not compile"):
        needs.compile_sources(tmp_path)
