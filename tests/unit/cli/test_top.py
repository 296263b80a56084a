# SPDX-License-Identifier: Apache-2.0
"""pyvmm top over a VM that is none: what it shows, how it ends, and the terminal that it leaves."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.cli import top, vms
from pyvmm.cli.main import main
from pyvmm.cli.top import screen
from pyvmm.control import reading
from pyvmm.control.client import connect
from pyvmm.control.reading import Interval, Reading
from pyvmm.errors import SymcallError
from pyvmm.launch import status
from pyvmm.symbiotic.memory import Memory
from tests.support.fake_vm import SECONDS, FakeSwap, FakeVM, served, task

MIB = 1 << 20
Said = pytest.CaptureFixture[str]
#: Enough for a test, and quick.
QUICK = ("--interval", "0.1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


class BusyVM(FakeVM):
    """Each look at it finds more of everything; it ends after `looks` of them."""

    def __init__(self, looks: int = 1000) -> None:
        super().__init__()
        self.swap = FakeSwap()
        self.looks = looks
        self.answers["memory"] = lambda cpu: self.memory_statistics()
        self.answers["tasks"] = lambda cpu, threads: [
            task(1, "init", rss_bytes=2 * MIB),
            task(2, "kthreadd", kernel_thread=True),
            task(3, "secret", rss_bytes=None),
            task(30, "evil\x1b[2J", rss_bytes=9 * MIB, swap_bytes=None),
        ]

    def memory_statistics(self) -> Memory:
        amounts = (256, 20, 60, 100, 30, 9, 0, 64, 50, 0)
        return Memory(4096, *(number * MIB for number in amounts), *range(4))

    def exits(self) -> dict[str, int]:
        self.looks -= 1
        if self.looks < 0:
            self.state = "ended"
        self.symcalls = {"calls": 100 - self.looks}
        return {"io": -self.looks, "mmio": 5}


@pytest.fixture
def vm() -> Iterator[BusyVM]:
    made = BusyVM()
    with served(made):
        yield made


# What it says.


def test_json(vm: BusyVM, capsys: Said) -> None:
    assert main(["top", "--json", "--count", "2", *QUICK, "web"]) == status.OK
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == set(second)
    assert (first["name"], first["pid"], first["cpus"]) == ("web", os.getpid(), 2)
    assert first["seconds"] >= 0.1
    assert first["exits"]["io"] == pytest.approx(1 / first["seconds"])
    assert first["exits"]["mmio"] == 0
    assert first["symcalls"] == pytest.approx(1 / first["seconds"])
    assert first["guest"]["total"] == 256 * MIB
    assert first["guest"]["rates"] == dict.fromkeys(reading.PAGING, 0)
    assert first["guest_error"] is None
    assert first["swap"]["bytes_used"] == 2 * MIB
    assert first["swap"]["rates"]["refused"] == 0
    assert [one["pid"] for one in first["tasks"]] == [30, 1, 3]
    host = first["host"]
    assert host["cpu_percent"] >= 0
    assert [share is None for share in host["vcpu_percent"]] == [False, True]
    assert 0 < host["vmm_pss"] <= host["vmm_rss"]
    assert 0 < host["available"] <= host["total"]


def test_plain_blocks(vm: BusyVM, capsys: Said) -> None:
    assert main(["top", "--count=2", *QUICK]) == status.OK
    blocks = capsys.readouterr().out.split("\n\n")
    assert len(blocks) == 2
    block = blocks[0]
    assert block.startswith(f"web  running  pid {os.getpid()}  2 vCPU, 8 KiB  up ")
    assert "guest  60.0 MiB of 256.0 MiB available" in block
    assert "swap   symcall (told off), policy pressure; store 2.0 MiB of 4.0 MiB;" in block
    assert "so far: slot 3, policy 20, race 2" in block
    assert "9216     -  evil?[2J" in block
    assert "\x1b" not in block


def test_a_guest_without_the_driver(capsys: Said) -> None:
    vm = FakeVM()

    def absent(cpu: int) -> Any:
        raise SymcallError("the guest has not registered an entry for symcalls", "absent")

    vm.answers["memory"] = absent
    with served(vm):
        assert main(["top", "--count=1", *QUICK]) == status.OK
        text = capsys.readouterr().out
        assert "guest  cannot be asked: the guest has not registered an entry" in text
        assert "\nswap" not in text
        assert "PID" not in text
        assert main(["top", "--json", "--count=1", *QUICK]) == status.OK
        record = json.loads(capsys.readouterr().out)
        assert (record["guest"], record["tasks"], record["swap"]) == (None, [], None)
        assert "not registered" in record["guest_error"]


def test_a_swap_disk_whose_guest_says_nothing(vm: BusyVM, capsys: Said) -> None:
    assert vm.swap is not None
    vm.swap.guest = None
    vm.swap.offered = 0
    assert main(["top", "--count=1", *QUICK]) == status.OK
    text = capsys.readouterr().out
    assert "\nswap " in text
    assert "adopted" not in text
    assert "asked for" not in text


@pytest.mark.parametrize("looks", [1, 3])
def test_the_end_of_the_vm_is_one(looks: int, capsys: Said) -> None:
    with served(BusyVM(looks)):
        assert main(["top", *QUICK, "web"]) == status.OK
    said = capsys.readouterr()
    assert said.err == "pyvmm: web has ended\n"
    assert said.out.count("\nhost ") == looks - 1


def test_a_vm_that_went_away() -> None:
    with served() as control, connect() as client:
        source = reading.Source(client)
        assert source.read() is not None
        control.close()
        control.join()
        assert source.read() is None


@pytest.mark.parametrize(
    "words",
    [
        ["--interval", "0"],
        ["--interval", "x"],
        ["--interval", "nan"],
        ["--count", "0"],
        ["--count", "-1"],
    ],
)
def test_options_that_are_none(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["top", *words])
    assert end.value.code == status.USAGE
    assert main(["top", "nobody"]) == status.USAGE


# Readings.


def test_what_is_not_known_is_no_zero(vm: BusyVM) -> None:
    with connect() as client:
        source = reading.Source(client)
        one = source.read()
        assert one is not None
        alone = Interval(None, one).record(1)
        assert alone["seconds"] is None
        assert set(alone["exits"].values()) == {None}
        assert "0/s" not in screen.text(alone)
        before: Reading = one._replace(at=one.at - 2, guest=None, cpu=None)
        record = Interval(before, one).record(1)
        assert record["guest"]["rates"]["pgfault"] is None
        assert record["host"]["cpu_percent"] is None
        assert len(record["tasks"]) == 1


def test_pressure(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_text(
        "some avg10=1.25 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"
    )
    assert reading.pressure(str(file)) == (1.25, 0.5)
    for text in ("", "nonsense\n", "some avg10=much\n"):
        file.write_text(text)
        assert reading.pressure(str(file)) == (None, None)
    assert reading.pressure(str(tmp_path / "missing")) == (None, None)


def test_memory_of_the_guest_is_told_apart(vm: BusyVM) -> None:
    with connect() as client:
        source = reading.Source(client)
        assert [size for _, size in source._ram] == [4096, 4096]
        source._ram, source._windows = [], []
        source._find_memory(4096)
        assert (len(source._ram), len(source._windows)) == (1, 1)


# On a terminal.


#: Without a controlling terminal ctrl-c would be a character.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Screen:
    """`pyvmm top` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.fd, self.inner = pty.openpty()
        termios.tcsetwinsize(self.inner, (24, 80))
        self.before = termios.tcgetattr(self.inner)
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, "-m", "pyvmm", "top", *words],
            stdin=self.inner,
            stdout=self.inner,
            stderr=self.inner,
            env=os.environ | {"TERM": "xterm"},
            start_new_session=True,
        )

    def expect(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.text}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode()

    def finish(self) -> int:
        """Its status; the terminal must be as it was."""
        code = self.process.wait(SECONDS)
        self.expect("\x1b[?1049l")
        self.expect("\x1b[?25h")
        assert termios.tcgetattr(self.inner) == self.before
        return code

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.inner)


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03", b"\x1a\x1cxq"])
def test_keys_end_it(vm: BusyVM, key: bytes) -> None:
    with Screen("--interval", "60", "web") as shown:
        shown.expect("\x1b[?1049h")
        shown.expect("evil?[2J")
        assert termios.tcgetattr(shown.inner) != shown.before
        os.write(shown.fd, key)
        assert shown.finish() == status.OK
        assert "Traceback" not in shown.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_in_order(vm: BusyVM, number: signal.Signals) -> None:
    with Screen("--interval", "60") as shown:
        shown.expect("evil?[2J")
        shown.process.send_signal(number)
        assert shown.finish() == 128 + number


def test_the_screen_ends_with_the_vm() -> None:
    with served(BusyVM(3)), Screen(*QUICK) as shown:
        assert shown.finish() == status.OK
        shown.expect("web has ended")


def test_a_screen_for_so_many_intervals(vm: BusyVM) -> None:
    with Screen(*QUICK, "--count", "2") as shown:
        assert shown.finish() == status.OK
        assert shown.text.count("faults") >= 3


def test_a_terminal_that_cannot_draw_gets_blocks(vm: BusyVM, capsys: Said) -> None:
    assert top.TASKS > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        patch.setenv("TERM", "dumb")
        assert main(["top", "--count=1", *QUICK]) == status.OK
    assert "\x1b" not in capsys.readouterr().out


def test_a_vm_that_refuses(capsys: Said) -> None:
    vm = FakeVM()
    vm.state = "ended"
    with served(vm):
        assert main(["top"]) == vms.REFUSED
    assert "has ended" in capsys.readouterr().err
