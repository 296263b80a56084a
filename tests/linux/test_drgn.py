# SPDX-License-Identifier: Apache-2.0
"""drgn over a running guest: from the command line, from Python, and over a kernel that does not answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pyvmm.drgn import program
from pyvmm.drgn.vmlinux import examine
from pyvmm.errors import ImageError
from pyvmm.guest.named import find_guest
from tests.support import kernels, processes
from tests.support.linux import Guest, pyvmm
from tests.support.stream import Process, Terminal

NAME = f"drgn-{os.getpid()}"
TASKS = """
import json
print(json.dumps([
    [task.pid.value_(), task.comm.string_().decode(), task.real_parent.tgid.value_()]
    for task in for_each_task()
]))
"""


@pytest.mark.rest
def test_tasks_by_drgn_by_ps_and_by_proc(tmp_path: Path) -> None:
    """The same processes three ways, two of them from outside and from another process."""
    script = tmp_path / "tasks.py"
    script.write_text("from drgn.helpers.linux import for_each_task\n" + TASKS)
    with Guest(processes.SCRIPT, cpus=2) as guest:
        guest.start().expect("sleeper ")
        guest.vm.serve(NAME)
        before = processes.listing(guest)
        by_code = pyvmm("drgn", NAME, "-c", TASKS)
        by_script = pyvmm("drgn", NAME, str(script))
        by_input = pyvmm("drgn", NAME, stdin=TASKS.encode())
        by_ps = pyvmm("ps", "--json", NAME)
        after = processes.listing(guest)
        guest.say("over")
        assert guest.finish().ok

    stable = before.keys() & after.keys()
    ps = {task["pid"]: (task["comm"], task["ppid"]) for task in json.loads(by_ps.stdout)["tasks"]}
    assert stable <= ps.keys()
    for done in (by_code, by_script, by_input):
        assert done.status == 0, done
        seen = {pid: (comm, ppid) for pid, comm, ppid in json.loads(done.stdout)}
        assert stable <= seen.keys()
        assert {pid: seen[pid] for pid in stable} == {pid: ps[pid] for pid in stable}
        for pid in stable:
            comm, ppid = seen[pid]
            assert processes.same_name(comm, after[pid].comm)
            assert ppid == after[pid].ppid


def test_program_in_this_process() -> None:
    with Guest(processes.SCRIPT, cpus=2) as guest:
        guest.start().expect("sleeper ")
        facts = guest.vm.facts()
        prog = program(guest.vm)
        release = prog["init_uts_ns"].name.release.string_().decode()
        first = prog["jiffies"].value_()
        frames = [frame.name for frame in prog.stack_trace(1)]
        command = prog["saved_command_line"].string_()
        processes.listing(guest)
        assert prog["jiffies"].value_() >= first
        guest.say("over")
        assert guest.finish().ok
    assert release == facts.release
    assert "schedule" in frames
    assert command.endswith(b"quiet")


@pytest.mark.parametrize("kernel", kernels.BOTH)
def test_kernel_that_is_not_asked(kernel: str) -> None:
    """Found in memory, with no driver to say where it is."""
    with Guest("sleep 1000 & echo up; read word", linux=kernel, symbiotic=False) as guest:
        guest.start().expect("up")
        prog = program(guest.vm)
        tasks = prog["init_task"].tasks.address_of_()
        assert prog["init_task"].comm.string_() == b"swapper/0"
        assert tasks.next.value_() != tasks.value_()
        guest.say("over")
        assert guest.finish().ok


def test_vmlinux_that_is_not_the_guests(tmp_path: Path) -> None:
    """The guest's own, with another build id."""
    own = Path(find_guest(kernels.DEFAULT).vmlinux).with_name("vmlinux.debug")
    build_id = bytes.fromhex(examine(str(own)).build_id)
    other = tmp_path / own.name
    other.write_bytes(own.read_bytes().replace(build_id, build_id[::-1]))
    with Guest("echo up; read word") as guest:
        guest.start().expect("up")
        guest.vm.serve(NAME)
        done = pyvmm("drgn", NAME, "--vmlinux", str(other), "-c", "1")
        with pytest.raises(ImageError, match=r"no sections|no debug information"):
            program(guest.vm, find_guest(kernels.DEFAULT).vmlinux)
        guest.say("over")
        assert guest.finish().ok
    assert done.status == 122
    assert "not of the running kernel 6.12." in done.stderr
    assert done.stderr.count("\n") == 1


def test_vm_that_is_not_there() -> None:
    done = pyvmm("drgn", "nobody-has-this-name", "-c", "1")
    assert done.status == 122
    assert "no VM named nobody-has-this-name is running" in done.stderr


@pytest.mark.rest
def test_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # drgn keeps a history
    with Guest("echo up; read word") as guest:
        guest.start().expect("up")
        guest.vm.serve(NAME)
        with Terminal("drgn", NAME) as session:
            session.expect(">>> ")
            session.type("prog['init_uts_ns'].name.sysname\r")
            session.expect('(char [65])"Linux"')
            session.type("find_task(1).comm\r")
            session.expect('(char [16])"init"')
            session.type("exit()\r")
            assert session.finish() == 0
        guest.say("over")
        assert guest.finish().ok


@pytest.mark.rest
def test_machine_that_ends_under_drgn() -> None:
    code = "print('begun', flush=True)\nwhile True: prog['jiffies'].value_()"
    with Guest("echo up; read word") as guest:
        guest.start().expect("up")
        guest.vm.serve(NAME)
        with Process("drgn", NAME, "-c", code) as session:
            session.expect("begun")
            guest.vm.close()
            status = session.finish()
            text = session.text
    assert status == 125
    assert text.endswith("pyvmm: the machine whose memory is read has ended\n")
