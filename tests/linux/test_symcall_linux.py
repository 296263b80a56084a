# SPDX-License-Identifier: Apache-2.0
"""Linux is called into while it works, and does not notice."""

from __future__ import annotations

import os
import re
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm._core import ffi, lib
from pyvmm.errors import SymcallError
from pyvmm.machine.symcall import Call
from tests.support import kernels, linux
from tests.support.kernel_log import faults

if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.machine.hooks import Exit
    from pyvmm.machine.vcpu import Vcpu
    from pyvmm.vm import VM

#: Seconds of work under symcalls; long enough for lockdep and RCU to say what they do not like.
WORK_SECONDS = int(os.environ.get("PYVMM_SYMCALL_SECONDS", "120"))

#: Calls that are posted at once, which the vCPU makes one after the other.
BATCH = 256
#: While page tables are isolated.
ISOLATED_CALLS = 1000
FIVE = struct.Struct("=5Q")


class Posted:
    """One of many calls of TEST that are under way at once, at as little work for Python as there can be."""

    def __init__(self, vcpu: Vcpu, number: int) -> None:
        self._vcpu = vcpu
        self._call = Call()
        self._call.message.number = lib.SYMCALL_TEST
        self._registers = ffi.buffer(self._call.message.regs)
        self._given = FIVE.pack(number, 2, 3, 4, 1 << 63)
        self._answer = FIVE.pack(number + 1, 3, 4, 5, (1 << 63) + 1)

    def post(self) -> None:
        self._registers[:] = self._given
        lib.symcall_post(self._vcpu._c, self._call._c)

    def check(self) -> None:
        while not lib.symcall_wait(self._vcpu._c, self._call._c, 1000):
            pass
        assert (self._call.message.status, self._registers[:]) == (lib.SYMCALL_OK, self._answer)


class Caller(threading.Thread):
    """Makes symcalls on a vCPU, one after the other, until told to stop."""

    def __init__(self, vm: VM, cpu: int, batch: int = BATCH) -> None:
        super().__init__(daemon=True)
        self.vm = vm
        self.cpu = cpu
        self.ending = threading.Event()
        self.batch = [Posted(vm.vcpus[cpu], number) for number in range(batch)]
        self.calls = 0
        self.again = 0
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                for _ in range(8):
                    self.several()
                self.current()
                self.memory()
                self.tasks()
        except Exception as error:
            self.failed = error

    def several(self) -> None:
        """A batch of calls: more than Python makes one by one here."""
        for posted in self.batch:
            posted.post()
        for posted in reversed(self.batch):  # when the last is over, all are
            posted.check()
        self.calls += len(self.batch)

    def current(self) -> None:
        task = self.vm.symcall(self.cpu, "current")
        assert task.cpu == self.cpu, task
        self.calls += 1

    def memory(self) -> None:
        memory = self.vm.symcall(self.cpu, "memory")
        assert 0 < memory.free < memory.total, memory
        self.calls += 1

    def tasks(self) -> None:
        try:
            names = {task.comm for task in self.vm.tasks(cpu=self.cpu)}
            assert "init" in names, names
        except SymcallError as error:
            # The guest may say that it cannot, all the time; anything else is a failure.
            if error.reason != "error":
                raise
            self.again += 1
        self.calls += 1


@pytest.mark.host("linux", rest=True)
@pytest.mark.host("vmx", "shadow")
def test_symcalls_while_its_page_tables_are_isolated() -> None:
    """Calls come in user mode too, where the kernel's page tables are not those in CR3."""
    script = "grep -ow pti /proc/cpuinfo; echo READY; read go; "
    script += "while ! test -e /tmp/over; do md5sum /bin/busybox; done > /tmp/sums & "
    script += "read over; touch /tmp/over; wait; sort -u /tmp/sums | wc -l; echo DONE"
    with linux.Guest(script, params=f"{linux.PATIENT} pti=on") as guest:
        guest.start()
        assert "pti" in guest.expect("READY")
        caller = Caller(guest.vm, 0)
        caller.start()
        guest.say("go")
        while caller.calls < ISOLATED_CALLS and caller.is_alive():
            threading.Event().wait(0.1)
        caller.ending.set()
        caller.join()
        guest.say("over")
        text = guest.expect("DONE")
        assert guest.finish().ok
        log, counters = guest.vm.console_log(), guest.vm.symcalls
    assert caller.failed is None
    assert caller.calls >= ISOLATED_CALLS
    assert "1\n" in text.replace("\r", ""), text  # one sum, whatever came in between
    assert faults(log) == []
    assert counters["deadlines"] == counters["faults"] == counters["stray_returns"] == 0
    assert counters["calls"] == counters["returned"] + counters["errors"]


@pytest.mark.rest
def test_a_guest_called_a_thousand_times_a_second_does_not_notice() -> None:
    script = (
        "echo READY; read go; for i in 1 2 3; do checksum $1 & done; wait; echo ALL DONE; read go;"
        "grep debug_locks: /proc/lockdep_stats; dmesg; echo ALL SAID"
    ).replace("$1", str(WORK_SECONDS))
    guest = linux.Guest(
        script,
        linux=kernels.DEBUG,
        memory="512M",
        cpus=2,
        params=linux.PATIENT,
        files={"/bin/checksum": linux.program("checksum")},
    )
    with guest:
        guest.start()
        guest.expect("READY")
        callers = [Caller(guest.vm, cpu) for cpu in (0, 1)]
        for caller in callers:
            caller.start()
        began = time.monotonic()
        guest.say("go")
        text = guest.expect("ALL DONE", WORK_SECONDS * 3 + 120)
        seconds = time.monotonic() - began
        for caller in callers:
            caller.ending.set()
            caller.join()
        guest.say("go")
        said = guest.expect("ALL SAID")
        result = guest.finish()
        counters = guest.vm.symcalls
    calls = sum(caller.calls for caller in callers)
    print(f"{calls} symcalls in {seconds:.0f} s, {calls / seconds:.0f} a second; {counters}")
    assert [caller.failed for caller in callers] == [None, None]
    assert "WRONG" not in text, text
    assert [int(n) > 0 for n in re.findall(r"rounds (\d+)", text)] == [True] * 3, text
    assert result.ok, result
    check_log(said)
    assert counters["deadlines"] == counters["faults"] == counters["stray_returns"] == 0
    assert counters["calls"] == counters["returned"] + counters["errors"]
    assert calls >= 1000 * WORK_SECONDS, "not what the guest was to bear"


def check_log(said: str) -> None:
    """All that the kernel said since its start, by its own dmesg. lockdep, which ends with its first report, is on."""
    assert "Linux version" in said, said
    assert faults(said) == []
    assert re.findall(r"debug_locks: +(\d+)", said) == ["1"], said[:200]


def in_hook(guest: linux.Guest, port: int) -> list[Any]:
    """What each write to the port found out about the task that made it."""
    found: list[Any] = []

    def probe(exit: Exit) -> None:
        found.append((exit.value, exit.vcpu.symcall("current"), exit.vcpu.symcall(1, exit.value)))

    guest.vm.machine.on_port(port, probe)
    return found


@pytest.mark.parametrize("version", kernels.BOTH)
def test_a_hook_asks_which_task_made_the_exit(tmp_path: Path, version: str) -> None:
    script = (
        'outport() { printf "\\\\x$1" | dd of=/dev/port bs=1 seek=1296 conv=notrunc 2>/dev/null; };'
        "for n in 11 22 33; do outport $n; done; echo $$ DONE"
    )
    with linux.Guest(script, linux=version) as guest:
        found = in_hook(guest, 1296)
        guest.start()
        text = guest.expect("DONE")
        assert guest.finish().ok
    assert [value for value, _, _ in found] == [0x11, 0x22, 0x33], text
    for value, task, test in found:
        assert task.comm == "dd", task
        assert not task.idle
        assert not task.kernel_thread
        assert test.rbx == value + 1


def test_calls_during_kicks_of_a_device_lose_nothing(tmp_path: Path) -> None:
    """The guest writes and reads a disk, sums compared, while its vCPU is called all the time."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(1 << 20) * 2)
    script = (
        "echo READY; read go; sum=$(md5sum < /dev/vda);"
        "for n in 1 2 3 4; do dd if=/dev/vda of=/tmp/copy bs=4k iflag=direct 2>/dev/null;"
        "dd if=/tmp/copy of=/dev/vda bs=4k oflag=direct conv=fsync 2>/dev/null;"
        'test "$(md5sum < /tmp/copy)" = "$sum" || echo WRONG; done;'
        'test "$(md5sum < /dev/vda)" = "$sum" && echo SAME; echo DONE; read end'
    )
    with linux.Guest(script, cpus=1) as guest:
        guest.vm.add_disk(disk)
        guest.start()
        guest.expect("READY")
        # Between batches the guest goes on: with few calls in each it is not kept from its work.
        caller = Caller(guest.vm, 0, batch=8)
        caller.start()
        guest.say("go")
        text = guest.expect("DONE", 240)
        caller.ending.set()
        caller.join()
        guest.say("end")  # not before: a guest that ends takes no calls
        assert guest.finish().ok
    assert caller.failed is None
    assert caller.calls > 50
    assert "SAME" in text, text
    assert "WRONG" not in text, text


def test_a_paused_guest_answers_and_stays_where_it_is(tmp_path: Path) -> None:
    with linux.Guest("echo READY; read go; echo WENT", cpus=2) as guest:
        guest.start()
        guest.expect("READY")
        guest.vm.pause()
        before = [vcpu.kvm.get_regs().rip for vcpu in guest.vm.vcpus]
        names = {task.comm for task in guest.vm.tasks()}
        assert {"init", "sh"} <= names
        assert guest.vm.symcall(1, "current").cpu == 1
        assert [vcpu.kvm.get_regs().rip for vcpu in guest.vm.vcpus] == before
        guest.vm.resume()
        guest.say("go")
        guest.expect("WENT")
        assert guest.finish().ok


def test_a_sleeping_guest_goes_back_to_sleep() -> None:
    """Calls wake the vCPU out of HLT, and its idle task stays the current one."""
    with linux.Guest("echo READY; read go; cat /proc/uptime; echo WENT") as guest:
        guest.start()
        guest.expect("READY")
        time.sleep(1)
        idle = [guest.vm.symcall(0, "current").idle for _ in range(200)]
        assert sum(idle) > 150, sum(idle)
        guest.say("go")
        guest.expect("WENT")
        assert guest.finish().ok


def test_hooks_that_call_each_other_s_vcpu_do_not_wait_for_ever() -> None:
    """One of the two gives up after the deadline; then the other's call is made."""
    both = threading.Barrier(2, timeout=60)
    outcomes: list[str] = []
    files = {"/bin/together": linux.program("together")}
    script = "together 1296 && echo DONE"
    with linux.Guest(script, cpus=2, symcall_deadline=0.5, files=files) as guest:
        machine = guest.vm.machine

        def probe(exit: Exit) -> None:
            both.wait()
            try:
                outcomes.append(f"rbx {machine.symcall(1 - exit.vcpu.index, 1, 5).rbx}")
            except SymcallError as error:
                outcomes.append(error.reason)

        machine.on_port(1296, probe)
        guest.start()
        guest.expect("DONE")
        assert guest.finish().ok
    assert len(outcomes) == 2
    assert set(outcomes) <= {"deadline", "rbx 6"}, outcomes
    assert "deadline" in outcomes
