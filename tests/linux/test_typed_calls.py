# SPDX-License-Identifier: Apache-2.0
"""Typed calls into Linux, each against what the guest itself, or its memory, says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm._core import lib
from pyvmm.errors import ConfigError, SymcallError
from pyvmm.machine.pagewalk import walk
from tests.support import kernels, processes
from tests.support.linux import Guest
from tests.support.swapguest import STOCK, SwapGuest

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

PORT = 0x510
by_kernel = pytest.mark.parametrize("kernel", kernels.BOTH)


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


#: A file in memory and a process larger than that; then the file is read, of which a part was swapped.
SWAPPING = """
yes | head -c 1m > /tmp/piece
pieces() { for i in $(seq $1); do cat /tmp/piece; done; }
pieces 30 > /tmp/file
(pieces 120; sleep 100000) | tail -c 120m > /dev/null &
hog=$!
until [ $(awk '/^VmSwap/ { print $2 }' /proc/$hog/status) -gt 4000 ]; do sleep 0.2; done
cat /tmp/file > /dev/null
echo hog $hog
while read word && [ "$word" != over ]; do
    cat /proc/meminfo /proc/vmstat /proc/$hog/status; echo told
done
"""
SWAP_LINES = r"^(SwapTotal|SwapFree|SwapCached|VmSwap|pswpin|pswpout):?\s+(\d+)"
TRIES = 100
#: KiB by which a task's count may be off on two CPUs: Linux 6.12 keeps up to 32 pages of it on each, 6.1 up to 64 in
#: the task. What /proc says has them added in newer kernels.
LOOSE = 2 * 32 * 4


def swap_as_told(guest: Guest) -> dict[str, int]:
    """The guest's own figures: KiB, or pages where they are counts."""
    guest.say("tell")
    lines = re.findall(SWAP_LINES, guest.expect("told\n"), re.M)
    return {name: int(number) for name, number in lines}


@by_kernel
def test_swap_in_use_is_that_of_proc(kernel: str) -> None:
    """Asked in between two equal answers of the guest's own files: the same, exactly but for the task's."""
    with SwapGuest(SWAPPING, STOCK, linux=kernel) as guest:
        guest.start().expect("hog ")
        hog = int(guest.expect("\n"))
        for _ in range(TRIES):
            before = swap_as_told(guest)
            memory = guest.vm.symcall(1, "memory")
            task = next(task for task in guest.vm.tasks(cpu=1) if task.pid == hog)
            if swap_as_told(guest) == before:
                break
        else:
            pytest.fail(f"the guest never rests: {before}, {memory}")
        guest.say("over")
        assert guest.finish().ok

    kib = {
        "SwapTotal": memory.swap_total,
        "SwapFree": memory.swap_free,
        "SwapCached": memory.swap_cached,
    }
    assert {name: (amount or 0) >> 10 for name, amount in kib.items()} == {
        name: before[name] for name in kib
    }
    assert (memory.pswpin, memory.pswpout) == (before["pswpin"], before["pswpout"])
    assert task.comm == "tail"
    assert task.swap_bytes is not None
    assert abs((task.swap_bytes >> 10) - before["VmSwap"]) <= LOOSE, (task, before)
    assert all(before.values()), before
    assert before["SwapTotal"] == (256 << 10) - 4
    assert before["SwapFree"] < before["SwapTotal"] - before["VmSwap"]


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
            found["lookup"] = vcpu.symcall("mem_lookup", rip, 0, lib.SYMBIOTIC_ACCESS_EXECUTE)
            found["write"] = vcpu.symcall("mem_lookup", rip, 0, lib.SYMBIOTIC_ACCESS_WRITE)
            found["other"] = vcpu.symcall("mem_lookup", rip, 1 << 62, lib.SYMBIOTIC_ACCESS_EXECUTE)
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
