# SPDX-License-Identifier: Apache-2.0
"""Symcalls into Debian's own kernels, which nobody rebuilt: the guest driver as a module, loaded and unloaded."""

from __future__ import annotations

import errno
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.errors import StateError, SymcallError
from tests.support import kernels
from tests.support.linux import Guest
from tests.support.processes import NAMED
from tests.support.stream import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.symbiotic.task import Current
    from pyvmm.vm import VM

CPUS = 2
ROUNDS = 5
ANSWERS = 200
PAUSE = 0.002  # seconds between symcalls, for the guest to get on as well
LINK_ADDRESS = 0xFFFF_FFFF_8100_0000  # of the kernel's first byte, _text
MIB = 1 << 20
COMPLAINTS = "warning:|bug:|rcu.*stall|call trace|general protection|symbiotic: "
#: What every module from outside causes.
USUAL = "out-of-tree|module verification"
#: Does what its input says, a line at a time, and is idle in between.
SCRIPT = f"""
sleep 1000 &
{NAMED}
echo ready
while read -r line; do eval "$line"; echo =end=; done
"""
#: /proc/PID/stat of every process, read by the shell itself.
LIST = 'for at in /proc/[0-9]*/stat; do read -r line < $at; echo "$line"; done'
STAT = re.compile(r"^(\d+) \((.*)\) \S (\d+) ", re.MULTILINE)
NAME_LENGTH = 15  # a kernel thread's name may be longer in /proc than in its task


class Talk:
    """A guest that does what it is told, a line of shell at a time."""

    def __init__(self, guest: Guest) -> None:
        self.vm = guest.vm
        self._guest = guest
        guest.expect("ready\n")

    def tell(self, line: str) -> str:
        """What the line printed."""
        self._guest.say(line)
        return self._guest.expect("=end=\n").removesuffix("=end=\n")

    def idle(self, cpu: int) -> Current:
        """What runs on a vCPU once nothing else does."""
        deadline = time.monotonic() + SECONDS
        while not (current := self.vm.symcall(cpu, "current")).idle:
            assert time.monotonic() < deadline, f"never idle: {current}"
            time.sleep(PAUSE)
        return current

    def load(self) -> None:
        """Loads the module."""
        assert self.tell("insmod /lib/modules/symbiotic.ko && echo in") == "in\n"

    def unload(self) -> None:
        """Unloads it."""
        assert self.tell("rmmod symbiotic && echo out") == "out\n"

    def refusal(self) -> str:
        """Why a symcall was not made."""
        with pytest.raises(SymcallError) as caught:
            self.vm.symcall(0, "test")
        return caught.value.reason

    def ending(self) -> str:
        """How the guest came to its end."""
        result = self._guest.finish()
        tail = self.vm.console_log().decode("utf-8", "replace")[-4000:]
        return f"the guest ended by {result.reason} {result.detail}\n{result.dump}\n{tail}"

    def log(self) -> str:
        """What the kernel complained of."""
        return self.tell(f"dmesg | grep -iE '{COMPLAINTS}' | grep -vE '{USUAL}'")


@pytest.fixture(params=kernels.of_debian(symbiotic=True))
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    with Guest(SCRIPT, linux=request.param, memory="512M", cpus=CPUS) as guest:
        yield Talk(guest.start())


def test_idle_guest_answers(talk: Talk) -> None:
    check_every_cpu(talk)
    check_tasks(talk)
    check_facts(talk)
    check_memory(talk)
    assert talk.vm.symcalls["errors"] == 0  # nobody had to try again
    with pytest.raises(SymcallError) as caught:
        talk.vm.symcall(0, 0xFFF)
    assert (caught.value.reason, caught.value.code) == ("error", errno.ENOSYS)
    assert talk.log() == ""


def check_every_cpu(talk: Talk) -> None:
    vm = talk.vm
    for cpu in range(CPUS):
        assert vm.symcall(cpu, "test", 1, 2, 3, 4, 5) == (2, 3, 4, 5, 6)
        current = talk.idle(cpu)
        assert (current.pid, current.cpu, current.comm) == (0, cpu, f"swapper/{cpu}")
    for _ in range(20):
        assert {task.comm for task in vm.tasks()} >= {"init", "sh", "sleep", "kthreadd"}


def check_tasks(talk: Talk) -> None:
    """They are those of /proc."""
    vm = talk.vm
    listed = STAT.findall(talk.tell(LIST))
    found = {task.pid: task for task in vm.tasks()}
    expected = {int(pid): (int(parent), comm[:NAME_LENGTH]) for pid, comm, parent in listed}
    answered = {pid: (task.ppid, task.comm) for pid, task in found.items()}
    assert steady(answered) == steady(expected)
    (sleep,) = [task for task in found.values() if task.comm == "sleep"]
    assert (sleep.state, sleep.threads, sleep.uid, sleep.kernel_thread) == ("S", 1, 0, False)
    assert (sleep.rss_bytes or 0) > 0
    assert (sleep.vsize_bytes or 0) > (sleep.rss_bytes or 0)


def steady(tasks: dict[int, tuple[int, str]]) -> dict[int, tuple[int, str]]:
    """Without the kernel's workers, which come, go, and rename themselves."""
    return {pid: entry for pid, entry in tasks.items() if not entry[1].startswith("kworker")}


def check_facts(talk: Talk) -> None:
    """They are what the guest's own files say."""
    vm = talk.vm
    text, banner = (
        int(talk.tell(f"grep -m1 ' {name}$' /proc/kallsyms").split()[0], 16)
        for name in ("_text", "linux_banner")
    )
    note = talk.tell("cat /sys/kernel/vmcoreinfo").split()
    facts = vm.facts()
    assert facts.out_of_tree
    assert (facts.release, facts.version) == tuple(talk.tell("uname -r; uname -v").splitlines())
    assert facts.kaslr_offset == text - LINK_ADDRESS
    assert (facts.vmcoreinfo_gpa, facts.vmcoreinfo_size) == (int(note[0], 16), int(note[1], 16))
    assert facts.possible_cpus >= CPUS
    assert facts.page_table_levels in (4, 5)
    assert vm.symcall(1, "facts").percpu_base != vm.symcall(0, "facts").percpu_base
    assert vm.symcall(0, "read", banner, 14) == b"Linux version "
    look = vm.symcall(0, "mem_lookup", banner)
    assert (look.vaddr, look.writable, look.executable) == (banner, False, False)
    assert kernel_root_maps(talk, facts.kernel_pgd_gpa, banner)


def check_memory(talk: Talk) -> None:
    memory = talk.vm.symcall(0, "memory")
    total = int(talk.tell("grep MemTotal /proc/meminfo").split()[1]) << 10
    assert memory.total == total
    assert 0 < (memory.free or 0) <= (memory.available or 0) + 64 * MIB < total + 64 * MIB
    assert memory.swap_total is None
    assert memory.swap_free == 0


def kernel_root_maps(talk: Talk, root: int | None, address: int) -> bool:
    """Whether the root page table that the guest names leads on at a kernel address."""
    assert root is not None
    levels = talk.vm.facts().page_table_levels
    index = address >> 12 + 9 * (levels - 1) & 511
    entry = int.from_bytes(talk.vm.memory.read(root + 8 * index, 8), "little")
    return bool(entry & 1)


def test_busy_guest_notices_nothing(talk: Talk) -> None:
    """Sums of a file are taken over and over while symcalls interrupt them, in user mode and in the kernel."""
    talk.tell("dd if=/dev/urandom of=/tmp/file bs=64k count=8 2> /dev/null")
    talk.tell("md5sum /tmp/file > /tmp/sum")
    talk.tell("check() { while md5sum -cs /tmp/sum; do :; done; echo broken >> /tmp/broken; }")
    talk.tell("check & check & check &")
    with Fire(talk.vm) as fire:
        while min(fire.answers) < ANSWERS and not fire.failed:
            time.sleep(PAUSE)
    assert not fire.failed, talk.ending()
    assert fire.wrong == []
    assert fire.reasons <= {f"error {errno.EAGAIN}"}
    assert talk.tell("ls -1 /tmp") == "file\nsum\n"
    assert talk.log() == ""


@pytest.mark.rest
def test_unload_and_load(talk: Talk) -> None:
    """At rest, then while symcalls go on from other threads: each of these is answered, or refused for a reason."""
    vm = talk.vm
    talk.unload()
    assert talk.refusal() == "absent"
    talk.load()
    assert [vm.symcall(cpu, "test", 1) for cpu in range(CPUS)] == [(2,)] * CPUS
    with Fire(vm) as fire:
        for _ in range(ROUNDS):
            talk.unload()
            talk.load()
    assert fire.wrong == []
    assert not fire.failed, talk.ending()
    assert min(fire.answers) > 0
    # ENOSYS: the calls go before the last CPU does. EAGAIN: a lock was taken for as long as we waited.
    assert fire.reasons <= {"absent", "disabled", f"error {errno.ENOSYS}", f"error {errno.EAGAIN}"}
    assert "absent" in fire.reasons
    assert [vm.symcall(cpu, "test", 1) for cpu in range(CPUS)] == [(2,)] * CPUS
    assert talk.log() == ""


class Fire:
    """Symcalls from a thread for each vCPU, while it is entered."""

    def __init__(self, vm: VM) -> None:
        self.reasons: set[str] = set()
        self.answers = [0] * CPUS
        self.wrong: list[object] = []
        self.failed = False  # the guest is no more
        self._vm = vm
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(cpu,)) for cpu in range(CPUS)]

    def _run(self, cpu: int) -> None:
        while not self._stop.wait(PAUSE):
            try:
                tasks = self._vm.symcall(cpu, "tasks")
                if not any(task.comm == "kthreadd" for task in tasks):
                    self.wrong.append(tasks)
                self._vm.symcall(cpu, "mem_lookup", 0x1000, 0, lib.SYMBIOTIC_ACCESS_READ)
                self.answers[cpu] += 1
            except StateError:
                self.failed = True
                return
            except SymcallError as error:
                self.reasons.add(f"{error.reason} {error.code}" if error.code else error.reason)

    def __enter__(self) -> Fire:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
