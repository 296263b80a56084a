# SPDX-License-Identifier: Apache-2.0
"""list, info, ps, symcall, pause, resume, stop: what they print, and how they end, over a VM that is none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli import ps, run, status, symcall, vms
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError, HostError, SymcallError
from tests.unit.control_support import FakeVM, served, task


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


Said = pytest.CaptureFixture[str]


def answer(capsys: Said, *words: str) -> Any:
    """What a command that succeeds says with --json."""
    assert main([words[0], "--json", *words[1:]]) == status.OK
    return json.loads(capsys.readouterr().out)


# list, info.


def test_list(capsys: Said) -> None:
    assert main(["list"]) == status.OK
    assert capsys.readouterr().out.split() == [name.rstrip(":") for name in vms_head()]
    assert answer(capsys, "list") == []
    with served(name="b"), served(name="a"):
        assert [vm["name"] for vm in answer(capsys, "list")] == ["a", "b"]
        assert main(["list"]) == status.OK
        _, *rows = capsys.readouterr().out.splitlines()
        assert [row.split()[0] for row in rows] == ["a", "b"]
        assert rows[0].split()[2:5] == ["running", "2", "0M"]
        assert rows[0].endswith("vmlinux")


def vms_head() -> tuple[str, ...]:
    from pyvmm.cli import list as listing

    return listing.HEAD


def test_list_shows_who_is_silent(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyvmm.control.client import Client

    def silent(self: Client, op: str) -> Any:
        raise HostError(110, "nothing for\x1b[31m 5 s")

    monkeypatch.setattr(Client, "call", silent)
    with served():
        assert main(["list"]) == status.OK
        assert (
            "web     -  silent     -       -   -  nothing for?[31m 5 s" in capsys.readouterr().out
        )


def test_list_of_an_unsafe_directory(folder: Path, capsys: Said) -> None:
    folder.mkdir(mode=0o755)
    assert main(["list"]) == status.HOST
    assert "chmod 700" in capsys.readouterr().err


def test_info(capsys: Said) -> None:
    with served():
        assert answer(capsys, "info", "web")["exits"] == {"io": 5}
        assert main(["info"]) == status.OK
        text = capsys.readouterr().out
        assert "state      running\n" in text
        assert "exits\n  io                   5\n" in text


# pause, resume, stop.


def test_pause_resume_stop(capsys: Said) -> None:
    vm = FakeVM()
    with served(vm):
        assert main(["pause", "web"]) == status.OK
        assert vm.state == "paused"
        assert answer(capsys, "resume") == {"state": "running"}
        assert main(["resume", "web"]) == vms.REFUSED
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "pyvmm: web: the machine is running, not paused\n"


def test_stop_waits_for_the_end() -> None:
    vm = FakeVM()
    with served(vm) as control:
        vm.stop = control.close  # type: ignore[method-assign]
        assert main(["stop", "web"]) == status.OK


def test_power_button(capsys: Said) -> None:
    vm = FakeVM()
    with served(vm):
        assert answer(capsys, "stop", "--power-button") == {"pressed": True}
        vm.listens = False
        assert main(["stop", "--power-button", "web"]) == vms.REFUSED
        assert "does not listen" in capsys.readouterr().err
    assert vm.state == "running"


@pytest.mark.parametrize("command", ["info", "pause", "resume", "stop", "ps"])
def test_no_vm(command: str, capsys: Said) -> None:
    for words in ([command], [command, "web"], [command, "a b"]):
        assert main(words) == status.USAGE
        assert capsys.readouterr().err.startswith("pyvmm: ")
    with served(name="a"), served(name="b"):
        assert main([command]) == status.USAGE
        assert "2 VMs are running; name one of: a, b" in capsys.readouterr().err


# ps.

TASKS = [
    task(1, "init", ppid=0, rss_bytes=2048 << 10, start_ns=10**9, utime_ns=61 * 10**9),
    task(2, "kthreadd", ppid=0, kernel_thread=True),
    task(30, "evil\x1b[2J\n", uid=1000, state="R", rss_bytes=None, swap_bytes=4096, cpu=1),
    task(31, "", tgid=30, start_ns=None, stime_ns=None, swap_bytes=None),
]


@pytest.fixture
def guest() -> FakeVM:
    vm = FakeVM()
    vm.answers["tasks"] = lambda cpu, threads: [
        one for one in TASKS if threads or one.pid == one.tgid
    ]
    return vm


def test_ps(guest: FakeVM, capsys: Said) -> None:
    with served(guest):
        assert main(["ps", "web"]) == status.OK
    assert capsys.readouterr().out == (
        "PID  PPID   UID  S  CPU     TIME   RSS  SWAP  START  COMMAND\n"
        "  1     0     0  S    0  1:01.00  2048     0   1.00  init\n"
        "  2     0     0  S    0  0:00.00     0     0   0.00  [kthreadd]\n"
        " 30     1  1000  R    1  0:00.00     -     4   0.00  evil?[2J?\n"
    )


def test_ps_threads(guest: FakeVM, capsys: Said) -> None:
    with served(guest):
        assert main(["ps", "-T", "--cpu", "1"]) == status.OK
    assert capsys.readouterr().out.splitlines()[-1] == (
        " 30   31     1     0  S    0        -     0     -      -"
    )
    assert guest.made == [(1, "tasks", True)]


def test_ps_json(guest: FakeVM, capsys: Said) -> None:
    with served(guest):
        found = answer(capsys, "ps", "--threads")
    assert found == [one._asdict() for one in TASKS]


@pytest.mark.parametrize(
    ("what", "order"),
    [
        ("pid", [1, 2, 30, 31]),
        ("rss", [1, 2, 31, 30]),
        ("swap", [30, 1, 2, 31]),
        ("start", [2, 30, 1, 31]),
        ("time", [1, 2, 30, 31]),
    ],
)
def test_ps_sorted(what: str, order: list[int]) -> None:
    tasks = [one._asdict() for one in reversed(TASKS)]
    assert [one["pid"] for one in ps.ordered(tasks, what)] == order
    with pytest.raises(SystemExit):
        main(["ps", "--sort", "beauty"])


def test_ps_of_a_guest_that_cannot(capsys: Said) -> None:
    vm = FakeVM()

    def absent(cpu: int, threads: bool) -> Any:
        raise SymcallError("its kernel has no symbiotic driver", "absent")

    vm.answers["tasks"] = absent
    with served(vm):
        assert main(["ps"]) == vms.REFUSED
    assert capsys.readouterr().err == "pyvmm: web: its kernel has no symbiotic driver\n"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(None, "-"), (0, "0:00.00"), (59_990_000_000, "0:59.99"), (2**64 - 2, "307445734:33.70")],
)
def test_clock(nanoseconds: int | None, text: str) -> None:
    assert ps.clock(nanoseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (7261, "2h01m"),
        (1e6, "11d13h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert vms.duration(seconds) == text


@given(st.text())
def test_text_of_a_guest_moves_no_cursor(text: str) -> None:
    assert vms.printable(text).isprintable()
    assert len(vms.printable(text)) == len(text)


# symcall.


def test_symcall(capsys: Said) -> None:
    vm = FakeVM()
    with served(vm):
        assert main(["symcall", "web", "1", "5", "0x10", "0b11", "-1"]) == status.OK
        assert capsys.readouterr().out == "0x6 0x11 0x4 0x10000000000000000 0x1\n"
        assert answer(capsys, "symcall", "web", "0x1", "5")["rbx"] == 6
        assert answer(capsys, "symcall", "--cpu=1", "web", "tasks", "0")[0]["comm"] == "init"
    assert vm.made[0] == (0, 1, 5, 16, 3, 2**64 - 1)
    assert vm.made[2] == (1, "tasks", 0)


def test_symcall_with_data(tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(range(20, 40)))
    with served():
        assert main(["symcall", "--data", str(file), "--want", "20", "web", "1"]) == status.OK
        assert capsys.readouterr().out == (
            "0x1 0x1 0x1 0x1 0x1\n"
            "0000  27 26 25 24 23 22 21 20 1f 1e 1d 1c 1b 1a 19 18  '&%$#\"! ........\n"
            "0010  17 16 15 14                                      ....\n"
        )
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"xyz")))
        assert answer(capsys, "symcall", "--data", "-", "web", "1")["data"] == "enl4"


def test_symcall_that_fails(capsys: Said) -> None:
    with served():
        assert main(["symcall", "web", "99"]) == vms.REFUSED
        assert "web: symcall 99: the guest answered" in capsys.readouterr().err
        assert main(["symcall", "--cpu", "7", "web", "1"]) == status.USAGE
        assert "no vCPU 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["web", "1", "five"], "'five' is no number; write 17, 0x11"),
        (["web", "0x"], "'0x' is no number"),
        (["web", "1", "0x10000000000000000"], "does not fit into 64 bits"),
        (["web", "--data", "/nonexistent/file", "1"], "--data /nonexistent/file: No such file"),
        (["web", "1"], "no VM named web is running"),
    ],
)
def test_symcalls_that_are_none(words: list[str], complaint: str, capsys: Said) -> None:
    assert main(["symcall", *words]) == status.USAGE
    assert complaint in capsys.readouterr().err


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_numbers_of_any_base(number: int) -> None:
    sign, size = ("-" if number < 0 else ""), abs(number)
    for text in (f"{number}", f"{sign}{size:#x}", f"{sign}{size:#o}", f"{sign}{size:#b}"):
        assert symcall.parse_number(text) == number % (1 << 64)


# run --name.


def test_a_bad_name_is_refused_before_anything_starts(capsys: Said) -> None:
    assert main(["run", "--name", "a/b", "-k", "/nonexistent"]) == status.USAGE
    assert "cannot be the name of a VM" in capsys.readouterr().err


def test_a_name_that_runs_is_refused_before_anything_starts(capsys: Said) -> None:
    with served():
        assert main(["run", "--name", "web", "-k", "/nonexistent"]) == status.USAGE
    assert "web is running already" in capsys.readouterr().err


def test_a_launch_loads_what_the_socket_needs_only_when_the_guest_runs() -> None:
    names = "socket json selectors base64 fcntl pyvmm.control.server pyvmm.control.protocol"
    code = (
        "import sys; before = set(sys.modules); import pyvmm.cli.run, pyvmm.vm; "
        f"print(set({names.split()}) & set(sys.modules) - before)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


class Unserved:
    """A VM for which there is no place."""

    def serve(self, name: str | None) -> str:
        raise HostError(1, "no place")


def test_only_who_asked_for_a_name_needs_one(capsys: Said) -> None:
    vm: Any = Unserved()
    run._serve(vm, None)
    assert "no control socket: [Errno 1] no place" in capsys.readouterr().err
    with pytest.raises(HostError):
        run._serve(vm, "web")
    with pytest.raises(ConfigError):
        symcall.read_data("/nonexistent/file")
