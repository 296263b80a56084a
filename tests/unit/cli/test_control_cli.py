# SPDX-License-Identifier: Apache-2.0
"""list, info, ps, swap, symcall, pause, resume, stop: what they print, and how they end, over a VM that is none."""

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

from pyvmm.cli import ps, symcall, tasktext, vms
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError, HostError, SymcallError
from pyvmm.launch import human, launch, status
from pyvmm.symbiotic.task import TaskList
from tests.support.fake_vm import FakeSwap, FakeVM, served, task


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


@pytest.mark.parametrize("command", ["info", "pause", "resume", "stop", "ps", "swap"])
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
    assert found == {"tasks": [one._asdict() for one in TASKS], "cut": None}


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_ps_of_a_guest_that_has_more(words: list[str], guest: FakeVM, capsys: Said) -> None:
    """What there is of the answer is printed, it says that it was cut, and so does the status."""
    some = TaskList(TASKS)
    some.cut = "cut after 4 tasks: the guest is slow\x1b"
    guest.answers["tasks"] = lambda cpu, threads: some
    with served(guest):
        assert main(["ps", *words]) == vms.REFUSED
    said = capsys.readouterr()
    assert said.err == "pyvmm: web: cut after 4 tasks: the guest is slow?\n"
    if words:
        assert json.loads(said.out)["cut"] == some.cut
        assert len(json.loads(said.out)["tasks"]) == 4
    else:
        assert len(said.out.splitlines()) == 5


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
    assert tasktext.clock(nanoseconds) == text


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
    assert human.duration(seconds) == text


@given(st.text())
def test_text_of_a_guest_moves_no_cursor(text: str) -> None:
    assert human.printable(text).isprintable()
    assert len(human.printable(text)) == len(text)


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
    names = "socket json selectors base64 fcntl re enum pyvmm.control.server pyvmm.control.protocol"
    code = (
        "import sys; before = set(sys.modules); import pyvmm.launch.launch, pyvmm.vm; "
        f"print(set({names.split()}) & set(sys.modules) - before)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


class Unserved:
    """A VM for which there is no place."""

    def serve(self, name: str | None) -> str:
        raise HostError(1, "no place")


def test_only_who_asked_for_a_name_needs_one(capsys: Said) -> None:
    vm: Any = Unserved()
    launch._serve(vm, None)
    assert "no control socket: no place" in capsys.readouterr().err
    with pytest.raises(HostError):
        launch._serve(vm, "web")
    with pytest.raises(ConfigError):
        symcall.read_data("/nonexistent/file")
    with pytest.raises(ConfigError, match="more than the 3072 bytes"):
        symcall.read_data("/dev/zero")


# swap.


@pytest.fixture
def swapping() -> FakeVM:
    vm = FakeVM()
    vm.swap = FakeSwap()
    return vm


def test_swap(swapping: FakeVM, capsys: Said) -> None:
    with served(swapping):
        assert main(["swap", "web"]) == status.OK
    assert capsys.readouterr().out == (
        "disk      swap-disk, 4.0 MiB in host memory\n"
        "mode      symcall is wanted, the guest is told off\n"
        "policy    pressure; it says no now\n"
        "host      1.0 GiB of 8.0 GiB available, 12.5 % of the time waiting for memory\n"
        "store     2.0 MiB of 4.0 MiB used\n"
        "queue     3.0 MiB written by the guest, 160 KiB read\n"
        "guest     uses the aperture, swaps to the disk\n"
        "slots     600 of 1024 used\n"
        "adopted   100 pages now, 300 so far\n"
        "given up  200 pages freed, 9 handed back, 1 could not be\n"
        "copied    700 pages out, 40 in, 0 were zero\n"
        "symcalls  3 made\n"
        "\n"
        "FAULTS                  GUEST  VMM\n"
        "offered                   500  400\n"
        "bypassed                  300  375\n"
        "  refused: mode            30    0\n"
        "  refused: slot             3    3\n"
        "  refused: policy          20   20\n"
        "  refused: race             2    2\n"
        "  refused: not its own      7    -\n"
        "  refused: shared          20    -\n"
        "  refused: overtaken        5    -\n"
    )


def test_swap_of_a_guest_that_says_nothing(swapping: FakeVM, capsys: Said) -> None:
    assert swapping.swap is not None
    swapping.swap.guest = None
    swapping.swap.backing = "a\nfile"
    with served(swapping):
        assert main(["swap"]) == status.OK
        text = capsys.readouterr().out
        assert "in a?file\n" in text
        assert "guest     cannot be asked now\n" in text
        assert text.endswith("refused: race        -    2\n")
        assert answer(capsys, "swap")["guest"] is None


def test_swap_sets(swapping: FakeVM, capsys: Said) -> None:
    swap = swapping.swap
    assert swap is not None
    with served(swapping):
        options = ["--mode", "direct", "--policy", "quota", "--quota", "2M"]
        assert main(["swap", *options, "web"]) == status.OK
        assert (swap.mode, swap.policy, swap.quota) == ("direct", "quota", 2 << 20)
        assert "policy    quota of 2.0 MiB; it says no now\n" in capsys.readouterr().out
        assert answer(capsys, "swap", "web", "--evict")["symcalls"] == 3
        assert answer(capsys, "swap", "web", "--evict", "12")["mode"] == "direct"
        assert swap.evicted == [None, 12]
        swap.guest = None
        assert main(["swap", "web", "--evict"]) == vms.REFUSED
        assert "web: symcall 0x106: No such device" in capsys.readouterr().err


def test_swap_of_a_vm_without(capsys: Said) -> None:
    with served():
        for options in ([], ["--mode", "off"], ["--evict"]):
            assert main(["swap", "web", *options]) == vms.REFUSED
            assert "web: this VM has no swap disk; pyvmm run --swap" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--mode", "fast"],
        ["--policy", "mine"],
        ["--evict", "0"],
        ["--evict", "-3"],
        ["--evict", "web"],
    ],
)
def test_swap_options_that_are_none(words: list[str], capsys: Said) -> None:
    with pytest.raises(SystemExit) as end:
        main(["swap", *words])
    assert end.value.code == status.USAGE
    assert main(["swap", "--quota", "much"]) == status.USAGE
    assert "'much' is not a size" in capsys.readouterr().err


@given(st.integers(0, 1 << 60))
def test_amounts(size: int) -> None:
    number, unit = human.amount(size).split()
    scale = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
    assert abs(float(number) * (1 << scale) - size) <= (1 << scale) * (1 if scale == 10 else 0.0501)
