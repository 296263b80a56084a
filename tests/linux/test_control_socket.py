# SPDX-License-Identifier: Apache-2.0
"""A running Linux guest seen and called from other processes, by its name: ps, symcall, pause, stop."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyvmm.cli import vms
from pyvmm.control.client import running
from pyvmm.launch import status
from tests.support import kernels, processes, waiting
from tests.support.linux import Guest, program, pyvmm
from tests.support.stream import SECONDS, Process

NAME = "web"
until = partial(waiting.until, seconds=SECONDS)
#: Processes in known states, then their pids; then what processes.SCRIPT does.
KNOWN = (
    f"""
sleep 1001 & {processes.NAMED}; echo pid sleeping $!
sh -c 'while :; do :; done' & echo pid spinning $!
sleep 1002 & stopped=$!; kill -STOP $stopped; echo pid stopped $stopped
(: & exec sleep 1003) & echo pid parent $!
"""
    + processes.SCRIPT
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


def answer(*words: str) -> Any:
    """What the command line prints as JSON."""
    done = pyvmm(words[0], "--json", *words[1:])
    assert done.status == status.OK, done
    return json.loads(done.stdout)


def ps(*words: str) -> dict[int, dict[str, Any]]:
    """What `pyvmm ps` shows, by pid."""
    return {task["pid"]: task for task in answer("ps", *words, NAME)["tasks"]}


def pids(text: str) -> dict[str, int]:
    """The known processes by what they do."""
    words = [line.split() for line in text.splitlines()]
    return {line[1]: int(line[2]) for line in words if line[:1] == ["pid"]}


@pytest.mark.parametrize("kernel", kernels.BOTH)
def test_ps_is_what_the_guest_says_itself(kernel: str) -> None:
    with Guest(KNOWN, linux=kernel, cpus=2) as guest:
        guest.start().expect("sleeper ")
        guest.vm.serve(NAME)
        known = pids(guest.text)
        before = processes.listing(guest)
        seen = ps()
        after = processes.listing(guest)
        table = pyvmm("ps", NAME)
        guest.say("over")
        assert guest.finish().ok

    stable = before.keys() & after.keys()
    assert set(known.values()) <= stable <= seen.keys()
    for pid in stable:
        task, process = seen[pid], after[pid]
        assert processes.same_name(task["comm"], process.comm)
        assert (task["ppid"], task["threads"]) == (process.ppid, process.threads)
    states = {what: seen[pid]["state"] for what, pid in known.items()}
    assert states == {"sleeping": "S", "spinning": "R", "stopped": "T", "parent": "S"}
    assert states == {what: after[pid].state for what, pid in known.items()}
    (zombie,) = [task for task in seen.values() if task["ppid"] == known["parent"]]
    assert zombie["state"] == "Z"
    assert seen[known["sleeping"]]["rss_bytes"] > 0
    assert seen[2]["comm"] == "kthreadd"
    assert seen[2]["kernel_thread"]
    rows = [line.split() for line in table.stdout.splitlines()]
    assert rows[0][0] == "PID"
    by_pid = {int(row[0]): row for row in rows[1:]}
    assert by_pid[known["spinning"]][3::6] == ["R", "sh"]
    assert by_pid[2][-1] == "[kthreadd]"


@pytest.mark.rest
def test_ps_shows_threads() -> None:
    with Guest("exec /root/hog", cpus=2, files={"/root/hog": program("hog")}) as guest:
        guest.start().expect("hogging 2")
        guest.vm.serve(NAME)
        until(lambda: len([t for t in ps("-T").values() if t["comm"] == "hog"]) == 2)
        threads = [task for task in ps("--threads").values() if task["comm"] == "hog"]
        (process,) = [task for task in ps().values() if task["comm"] == "hog"]
        assert {task["tgid"] for task in threads} == {process["pid"]}
        assert process["threads"] == 2
        assert {task["cpu"] for task in threads} == {0, 1}


STOP_ALL = f"""
sleep 1001 & {processes.NAMED}; echo pid sleeping $!
echo pid shell $$
read word
kill -STOP -1
kill -STOP $$
echo still here
"""


@pytest.mark.rest
def test_ps_when_every_process_is_stopped() -> None:
    with Guest(STOP_ALL) as guest:
        guest.start().expect("pid shell")
        guest.expect("\n")
        known = pids(guest.text)
        guest.vm.serve(NAME)
        guest.say("now")
        until(lambda: ps()[known["shell"]]["state"] == "T")
        seen = ps()
        assert seen[known["sleeping"]]["state"] == "T"
        assert (seen[known["sleeping"]]["comm"], seen[1]["pid"]) == ("sleep", 1)
        guest.say("anybody?")
        assert guest.quiet(1) == b""
        assert pyvmm("symcall", NAME, "1", "5", "6").stdout == "0x6 0x7 0x1 0x1 0x1\n"


@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.rest)])
def test_ps_when_real_time_processes_hold_every_cpu(cpus: int) -> None:
    """The highest priority, and no reserve for others: the console is dead, and their time goes on."""
    script = f"sleep 1001 & {processes.NAMED}; echo pid sleeping $!; exec /root/hog"
    with Guest(script, cpus=cpus, files={"/root/hog": program("hog")}) as guest:
        guest.start().expect(f"hogging {cpus}")
        known = pids(guest.text)
        guest.vm.serve(NAME)

        def held() -> bool:
            """All threads run, and the kernel's own get no turn any more."""
            hogs = [task for task in ps("-T").values() if task["comm"] == "hog"]
            return [task["state"] for task in hogs] == ["R"] * cpus

        until(held)
        guest.quiet(1)
        guest.say("anybody?")
        assert guest.quiet(1) == b""
        first = ps()
        assert first[known["sleeping"]]["comm"] == "sleep"
        (pid,) = [task["pid"] for task in first.values() if task["comm"] == "hog"]
        used = first[pid]["utime_ns"] + first[pid]["stime_ns"]
        until(lambda: sum(ps()[pid][name] for name in ("utime_ns", "stime_ns")) > used)
        for cpu in range(cpus):
            current = answer("symcall", f"--cpu={cpu}", NAME, "current")
            assert current["comm"] == "hog"


def test_ps_of_a_paused_guest() -> None:
    """The same each time, the machine as it was; and afterwards the guest knows nothing of it."""
    with Guest(processes.SCRIPT, cpus=2) as guest:
        guest.start().expect("sleeper ")
        guest.vm.serve(NAME)
        assert pyvmm("pause", NAME).status == status.OK
        assert answer("info", NAME)["state"] == "paused"
        first = ps()
        for cpu in (0, 1):
            done = pyvmm("symcall", "--cpu", str(cpu), NAME, "1", "0x10", "-1")
            assert done.stdout == "0x11 0x0 0x1 0x1 0x1\n"
        assert ps() == first
        assert answer("info", NAME)["state"] == "paused"
        assert pyvmm("resume", NAME).status == status.OK
        again = pyvmm("resume", NAME)
        assert (again.status, again.stdout) == (vms.REFUSED, "")
        assert "not paused" in again.stderr
        (sleeper,) = [pid for pid, task in first.items() if task["comm"] == "sleep"]
        assert processes.listing(guest)[sleeper].state == "S"
        guest.say("over")
        assert guest.finish().ok


def test_symcall_by_number_and_name() -> None:
    with Guest("uname -r; uname -v; read word") as guest:
        guest.start()
        release, version = (guest.expect("\n").strip() for _ in range(2))
        guest.vm.serve(NAME)
        assert pyvmm("symcall", NAME, "1", "5", "6").stdout == "0x6 0x7 0x1 0x1 0x1\n"
        facts = answer("symcall", NAME, "facts")
        assert (facts["release"], facts["version"]) == (release, version)
        assert answer("symcall", NAME, "memory")["page_size"] == 4096
        unknown = pyvmm("symcall", NAME, "0xfff0")
        assert unknown.status == vms.REFUSED
        assert "Function not implemented" in unknown.stderr
        raw = pyvmm("symcall", "--want", "72", NAME, "0x100")
        assert raw.status == status.OK
        assert raw.stdout.splitlines()[1].startswith("0000  ")
        calls = answer("info", NAME)["symcalls"]
        assert calls["calls"] >= 5
        assert calls["errors"] >= 1
        assert calls["deadlines"] == calls["faults"] == 0
        guest.say("over")
        assert guest.finish().ok


def test_a_run_by_name() -> None:
    """From the start to the end by the command line alone."""
    script = "echo up; while read word; do echo got $word; done"
    with Process("run", "--name", NAME, "-c", "2", "-m", "300M", "--", "sh", "-c", script) as run:
        run.expect("up\n")
        (vm,) = answer("list")
        assert (vm["name"], vm["pid"], vm["state"]) == (NAME, run.process.pid, "running")
        assert (vm["cpus"], vm["memory"]) == (2, 300 << 20)
        assert "sh" in {task["comm"] for task in answer("ps")["tasks"]}
        assert pyvmm("stop", "--power-button").status == vms.REFUSED
        assert pyvmm("pause").status == status.OK
        assert pyvmm("resume").status == status.OK
        assert run.process.stdin is not None
        assert pyvmm("stop", NAME).status == status.OK
        assert running() == []
        assert run.finish() == status.STOPPED
        assert pyvmm("ps", NAME).status == status.USAGE


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGINT, []), (signal.SIGKILL, [f"{NAME}.sock"])]
)
def test_an_interrupted_run_is_not_listed(number: int, left: list[str], folder: Path) -> None:
    with Process("run", "--name", NAME, "--", "sh", "-c", "echo up; sleep 1000") as run:
        run.expect("up\n")
        assert [vm["name"] for vm in running()] == [NAME]
        run.process.send_signal(number)
        run.process.wait(SECONDS)
        assert sorted(set(os.listdir(folder)) - {".lock"}) == left
        assert running() == []
        assert os.listdir(folder) == [".lock"]


def test_a_guest_without_the_driver_says_so() -> None:
    with Guest("echo up; read word", symbiotic=False) as guest:
        guest.start().expect("up")
        guest.vm.serve(NAME)
        done = pyvmm("ps", NAME)
        assert (done.status, done.stdout) == (vms.REFUSED, "")
        assert "symbiotic" in done.stderr
        assert pyvmm("info", NAME).status == status.OK
        guest.say("over")
        assert guest.finish().ok


# In the background.


def contains(path: Path, text: str) -> bool:
    return text in path.read_text()


def test_detached_guests_run_on_and_are_called(tmp_path: Path) -> None:
    """Two of one fork server: each has its own guest, log, record and end."""
    for name in ("one", "two"):
        log, record = str(tmp_path / f"{name}.log"), str(tmp_path / f"{name}.json")
        script = f"echo here is {name}; read go; sleep 1004 & wait"
        done = pyvmm(
            "run",
            "--detach",
            "--name",
            name,
            "--log",
            log,
            "--json",
            record,
            "--",
            "sh",
            "-c",
            script,
        )
        assert (done.status, done.stdout, done.stderr) == (status.OK, f"{name}\n", "")
    assert [info["name"] for info in running()] == ["one", "two"]
    for name in ("one", "two"):
        until(partial(contains, tmp_path / f"{name}.log", f"here is {name}\n"))
        comms = [task["comm"] for task in answer("ps", name)["tasks"]]
        assert "sh" in comms or "sleep" in comms
    assert pyvmm("stop", "one").status == status.OK
    assert [info["name"] for info in running()] == ["two"]
    assert answer("info", "two")["state"] == "running"
    assert pyvmm("stop", "two").status == status.OK
    until((tmp_path / "two.json").exists)
    assert (tmp_path / "one.log").read_text().startswith("here is one\n")
