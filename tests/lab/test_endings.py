# SPDX-License-Identifier: Apache-2.0
"""Every way for a guest to end, its exit status, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.cli import status
from tests import kernels
from tests.lab.linux import Guest
from tests.lab.stream import Process

if TYPE_CHECKING:
    from tests.lab.conftest import Run


def test_status_of_the_command(run: Run) -> None:
    done = run("echo out; echo more; exit 118", stdin=b"")
    assert (done.status, done.stdout) == (118, "out\nmore\n"), done
    assert done.stderr == ""


def test_status_of_a_signal_and_of_a_missing_command(run: Run) -> None:
    done = run("(kill -9 $$); sleep 60")
    assert done.status == 128 + signal.SIGKILL, done


@pytest.mark.parametrize(
    ("command", "reason"), [("poweroff -f", "poweroff"), ("reboot -f", "reboot")]
)
def test_guest_ends_itself(command: str, reason: str, run: Run) -> None:
    done = run(f"echo before; {command}; sleep 1000")
    assert done.status == status.OK, done
    assert done.record["reason"] == reason
    assert done.record["status"] is None
    assert done.stdout == "before\n"


def test_reboot_by_triple_fault(run: Run) -> None:
    done = run("reboot -f; sleep 1000", "-p", "reboot=t")
    assert done.status == status.GUEST_FAULT, done
    assert done.record["reason"] == "triple-fault"
    assert "rip" in done.record["dump"].lower()
    assert "triple-fault" in done.stderr


@pytest.mark.parametrize("linux", ["6.12", kernels.one("stock-6.1")])
def test_panic_is_reported_with_dump_and_log(linux: str, run: Run) -> None:
    done = run("echo c > /proc/sysrq-trigger; sleep 1000", "--linux", linux, "-m", "512M")
    assert done.status == status.GUEST_PANIC, done
    assert done.record["reason"] == "panic"
    assert "sysrq triggered crash" in done.stderr
    # Our kernel is built without the names of what it warns of, and then panics without a trace.
    assert ("Call Trace" in done.stderr) == (linux == "stock-6.1")
    assert "rip" in done.record["dump"].lower()
    assert done.record["dump"] in done.stderr


def test_timeout(run: Run) -> None:
    done = run("sleep 1000", "--timeout", "5")
    assert done.status == status.TIMEOUT, done
    assert done.record["reason"] == "timeout"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_the_guest(number: signal.Signals) -> None:
    with Process("run", "-c", "2", "--", "sh", "-c", "echo ready; sleep 1000") as pyvmm:
        pyvmm.expect("ready")
        pyvmm.process.send_signal(number)
        assert pyvmm.finish() == status.STOPPED, pyvmm.text


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def test_nothing_is_left_after_sigkill(tmp_path: Path) -> None:
    before = {
        place: set(os.listdir(place)) for place in ("/sys/class/net", "/dev/shm", "/tmp", ".")
    }
    running = processes()
    temporary, runtime = tmp_path / "temporary", tmp_path / "runtime"
    temporary.mkdir()
    runtime.mkdir(mode=0o700)
    env = {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(runtime)}
    with Process(
        *("run", "-c", "2", "--net", "pvkill0", "--", "sh", "-c", "echo ready; sleep 1000"), env=env
    ) as pyvmm:
        pyvmm.expect("ready")
        assert Path("/sys/class/net/pvkill0").exists()
        pyvmm.process.kill()
        assert pyvmm.finish() == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
    # Its socket is the next list's to remove.
    with Process("list", "--json", env=env) as listing:
        assert listing.finish() == 0
        assert listing.text.strip() == "[]"
    assert list(runtime.rglob("*.sock")) == []
    for place, names in before.items():
        assert set(os.listdir(place)) <= names, place
    left = [
        pid
        for pid in processes() - running
        if b"pyvmm\0run" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert left == []


def test_stop_from_another_thread() -> None:
    with Guest("echo ready; while :; do :; done", cpus=2) as guest:
        guest.start()
        guest.expect("ready")
        stopper = threading.Timer(0.5, guest.vm.stop)
        stopper.start()
        result = guest.finish()
        stopper.join()
        assert result.reason == "stopped"
        assert not result.ok
        assert guest.vm.state == "ended"


def test_closing_a_running_machine() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Guest("echo ready; while :; do :; done", cpus=2) as guest:
        guest.vm.add_rng()
        guest.start()
        guest.expect("ready")
    assert guest.vm.state == "closed"
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [name for name in os.listdir("/proc/self/task") if comm(name).startswith("virtio")]


def comm(task: str) -> str:
    return Path(f"/proc/self/task/{task}/comm").read_text()
