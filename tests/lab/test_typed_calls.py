# SPDX-License-Identifier: Apache-2.0
"""Typed calls into Linux, each against what the guest itself, or its memory, says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.errors import ConfigError, SymcallError
from pyvmm.machine.pagewalk import walk
from pyvmm.symbiotic import abi
from tests.lab import processes
from tests.lab.linux import Guest

if TYPE_CHECKING:
    from pyvmm.machine.hook import Exit

KERNELS = ("6.12", "6.1")
PORT = 0x510
by_kernel = pytest.mark.parametrize("kernel", KERNELS)


def booted(kernel: str, script: str = processes.SCRIPT, **options: Any) -> Guest:
    return Guest(script, linux=kernel, cpus=2, **options)


@by_kernel
def test_tasks_are_those_of_proc(kernel: str) -> None:
    with booted(kernel) as guest:
        guest.start().expect("sleeper ")
        before = processes.listing(guest)
        seen = {task.pid: task for task in guest.vm.tasks()}
        after = processes.listing(guest)
        guest.say("over")
        assert guest.finish().ok

    stable = before.keys() & after.keys()
    assert stable <= seen.keys()
    assert seen.keys() <= set(range(1, max(after) + 1))
    for pid in stable:
        task, process = seen[pid], after[pid]
        assert (task.tgid, task.ppid, task.uid) == (pid, process.ppid, 0)
        assert processes.same_name(task.comm, process.comm), (task, process)
        assert task.threads == process.threads
        assert task.start_ns is not None
        assert task.start_ns // processes.TICK_NS == process.start_ticks
        assert task.vsize_bytes == process.vsize
        assert task.kernel_thread == (pid == 2 or process.ppid == 2)
    sleeper = next(task for task in seen.values() if task.comm == "sleep")
    assert sleeper.state == "S"
    assert sleeper.rss_bytes
    assert sleeper.swap_bytes == 0


@by_kernel
def test_facts_and_memory_are_those_of_the_guest(kernel: str) -> None:
    script = """
        uname -r; uname -v
        echo text $(grep ' _text$' /proc/kallsyms)
        grep -E '^(MemTotal|MemFree|SwapTotal):' /proc/meminfo
        echo asked; read word
    """
    with booted(kernel, script) as guest:
        text = guest.start().expect("asked\n")
        facts = guest.vm.facts(cpu=1)
        memory = guest.vm.symcall(0, "memory")
        threads = len(list(guest.vm.tasks(threads=True)))
        guest.say("over")
        assert guest.finish().ok

    assert text.splitlines()[:2] == [facts.release, facts.version]
    address = re.search(r"text ([0-9a-f]+) ", text)
    assert address is not None
    assert int(address[1], 16) == 0xFFFF_FFFF_8100_0000 + facts.kaslr_offset
    assert (facts.cpu, facts.possible_cpus, facts.out_of_tree) == (1, 2, False)
    assert facts.page_table_levels in (4, 5)
    amounts = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    assert memory.total == amounts["MemTotal"]
    assert abs(memory.free - amounts["MemFree"]) < 16 << 20
    assert memory.swap_total == amounts["SwapTotal"]
    assert memory.page_size == 4096
    assert memory.pgfault
    assert threads > 10


HOOKED = f"printf x | dd of=/dev/port bs=1 seek={PORT} conv=notrunc 2> /dev/null"


@by_kernel
def test_calls_from_a_hook(kernel: str) -> None:
    """At the exit of a dd: who it is, and the code it runs, once by the guest's word and once by its page tables."""
    found: dict[str, Any] = {}
    with booted(kernel, HOOKED) as guest:

        @guest.vm.on_port(PORT)
        def write(exit: Exit) -> None:
            vcpu = exit.vcpu
            found["current"] = vcpu.symcall("current")
            regs, sregs = vcpu.kvm.get_regs(), vcpu.kvm.get_sregs()
            rip = regs.rip
            found["walk"] = walk(guest.vm.memory, sregs.cr3, sregs.cr0, sregs.cr4, sregs.efer, rip)
            found["lookup"] = vcpu.symcall("mem_lookup", rip, 0, abi.ACCESS_EXECUTE)
            found["write"] = vcpu.symcall("mem_lookup", rip, 0, abi.ACCESS_WRITE)
            found["other"] = vcpu.symcall("mem_lookup", rip, 1 << 62, abi.ACCESS_EXECUTE)
            found["code"] = vcpu.symcall("read", rip, 10_000)
            found["tasks"] = vcpu.symcall("tasks")
            with pytest.raises(SymcallError) as caught:
                vcpu.symcall("read", 0xFFFF_0000_0000_0000, 8)
            found["fault"] = (caught.value.reason, caught.value.code)

        guest.start()
        assert guest.finish().ok
        rip, code = found["walk"].vaddr, found["code"]
        page = guest.vm.memory.read(found["walk"].gpa, 4096 - rip % 4096)

    current = found["current"]
    assert current.comm == "dd"
    assert (current.kernel_thread, current.idle, current.exiting) == (False, False, False)
    assert current.pid in {task.pid for task in found["tasks"] if task.comm == "dd"}
    assert found["lookup"].vaddr == rip
    assert found["lookup"].pte_gpa == found["walk"].levels[-1].address
    assert found["lookup"].executable
    assert not found["lookup"].writable
    assert found["write"].vaddr is None
    assert found["other"].vaddr is None
    assert len(code) == 10_000
    assert code[: len(page)] == page
    assert found["fault"] == ("error", 14)


def test_names_that_nobody_registered() -> None:
    with booted("6.12", "echo up; read word") as guest:
        guest.start().expect("up")
        with pytest.raises(ConfigError, match="no symcall is named 'who'; there are: current"):
            guest.vm.symcall(0, "who")
        with pytest.raises(SymcallError) as caught:
            guest.vm.symcall(0, 0x1234)
        assert (caught.value.reason, caught.value.code) == ("error", 38)
        guest.say("over")
        assert guest.finish().ok
