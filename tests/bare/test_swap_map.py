# SPDX-License-Identifier: Apache-2.0
"""Faults that a guest puts before the VMM: the page table entry is written, or nothing is, whatever the guest says."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from pyvmm._core import lib
from pyvmm.machine.machine import Machine
from pyvmm.machine.memory import MIB, PAGE
from pyvmm.swap.bypass import SwapFault
from pyvmm.swap.store import SLOT
from tests.support import remote
from tests.support.faulting import (
    ENTRY,
    EXECUTE,
    LOOKUP,
    MAPPED,
    MODE,
    OLD,
    POLICY,
    PROPOSED,
    PTE,
    RACE,
    READ,
    SLOT_,
    SWAPPED,
    VADDR,
    WRITE,
    Fault,
    Faulting,
)


@pytest.fixture
def guest() -> Iterator[Faulting]:
    with Faulting(symcall_deadline=remote.deadline()) as made:
        yield made.start()


def refused(guest: Faulting, reason: int, fault: Fault = Fault()) -> None:  # noqa: B008
    """With that reason, counted, and nothing in memory has changed."""
    stats, before = guest.swap.stats, guest.others()
    assert guest.offer(fault) == reason
    assert guest.others() == before
    assert guest.machine.memory.read(guest.slot(SWAPPED), SLOT) == guest.page
    name = ("mapped", "mode", "slot", "policy", "lookup", "pte", "race")[reason]
    after = guest.swap.stats
    assert after.offered == stats.offered + 1
    assert after.mapped == stats.mapped
    assert after.refused == stats.refused | {name: stats.refused[name] + 1}


def test_the_entry_is_written(guest: Faulting) -> None:
    before = guest.others(entry=False)
    assert guest.offer() == MAPPED
    assert [guest.value("lookup_asked", i) for i in range(3)] == [VADDR, OLD, READ | WRITE]
    assert guest.value("lookups") == 1
    frame = guest.slot(SWAPPED)
    assert guest.entry == frame | 1 << 63 | 0x67
    # And nothing else in memory.
    assert guest.others(entry=False) == before
    # The guest reads its page there, and what it writes is on the disk.
    assert guest.peek(VADDR) == int.from_bytes(guest.page[:8], "little")
    guest.poke(VADDR + 8, 42)
    assert guest.swap_in(SWAPPED)[8:16] == (42).to_bytes(8, "little")
    assert guest.swap.stats.mapped == 1
    assert not any(guest.swap.stats.refused.values())
    assert guest.works()


def test_a_read_only_entry(guest: Faulting) -> None:
    guest.prepare(permissions=READ)
    assert guest.offer(Fault(proposed=PROPOSED & ~2)) == MAPPED
    assert guest.value("lookup_asked", 2) == READ
    assert guest.entry == guest.slot(SWAPPED) | 1 << 63 | 0x65


def test_bits_that_software_has(guest: Faulting) -> None:
    """Bits 9 to 11, 52 to 58 and the protection key are the guest's own."""
    bits = 7 << 9 | 0x7F << 52 | 0xF << 59
    assert guest.offer(Fault(proposed=PROPOSED | bits)) == MAPPED
    assert guest.entry == guest.slot(SWAPPED) | 1 << 63 | 0x67 | bits


def test_two_runs_of_kvm_a_fault(guest: Faulting) -> None:
    """One into the guest's handler and one out of it."""
    guest.offer()

    def exits() -> int:
        return sum(guest.machine.exits().values())

    for _ in range(20):
        guest.prepare()
        before = exits()
        assert guest.offer() == MAPPED
        assert exits() == before + 2  # the doorbell of the fault, and that of the return


# Mode and attachment.


def test_not_attached(guest: Faulting) -> None:
    assert guest.detach() == lib.SYMBIOTIC_HYPERCALL_DONE
    refused(guest, MODE)
    assert guest.attach() == lib.SYMBIOTIC_HYPERCALL_DONE
    assert guest.offer() == MAPPED


def test_off(guest: Faulting) -> None:
    guest.swap.mode = "off"
    refused(guest, MODE)
    guest.swap.mode = "symcall"
    assert guest.offer() == MAPPED


def test_without_a_store() -> None:
    with remote.Remote().start() as guest:
        assert guest.ring(lib.SYMBIOTIC_SWAP_MAP, *Fault())[:2] == [
            lib.SYMBIOTIC_HYPERCALL_DONE,
            MODE,
        ]
        assert guest.works()


# What the guest says at first.


@pytest.mark.parametrize(
    "slot", [0, 6, 4 * MIB // SLOT, 4 * MIB // SLOT - 1, 1 << 52, 1 << 63, (1 << 64) - 1]
)
def test_slots_that_hold_nothing(guest: Faulting, slot: int) -> None:
    if slot == 0:
        guest.swap_out(0, guest.page)
    refused(guest, SLOT_, Fault(slot=slot))
    assert guest.value("lookups") == 0


def test_a_slot_that_was_discarded(guest: Faulting) -> None:
    guest.discard(SWAPPED)
    assert guest.offer() == SLOT_


def test_a_slot_that_the_guest_filled_itself(guest: Faulting) -> None:
    guest.poke(guest.slot(6), 77)
    assert guest.offer(Fault(slot=6)) == MAPPED
    assert guest.peek(VADDR) == 77


@pytest.mark.parametrize(
    "vaddr", [VADDR + 1, VADDR + 8, 1 << 47, 1 << 63, (1 << 64) - PAGE, 1 << 56]
)
def test_addresses_that_are_no_user_page(guest: Faulting, vaddr: int) -> None:
    guest.answer(vaddr)
    refused(guest, PTE, Fault(vaddr=vaddr))
    assert guest.value("lookups") == 0


@pytest.mark.parametrize("old", [0, 1, OLD | 1])
def test_entries_that_are_none_of_swap(guest: Faulting, old: int) -> None:
    refused(guest, PTE, Fault(old=old))


BAD_BITS = {
    "not present": PROPOSED & ~1,
    "not the user's": PROPOSED & ~4,
    "write-through": PROPOSED | 1 << 3,
    "not cached": PROPOSED | 1 << 4,
    "PAT": PROPOSED | 1 << 7,
    "global": PROPOSED | 1 << 8,
    "nothing": 0,
    "everything": (1 << 64) - 1,
}


@pytest.mark.parametrize("name", BAD_BITS)
def test_proposals(guest: Faulting, name: str) -> None:
    refused(guest, PTE, Fault(proposed=BAD_BITS[name]))
    assert guest.value("lookups") == 0


# What it says when it is asked.


def test_another_address(guest: Faulting) -> None:
    for vaddr in (0, VADDR + PAGE, VADDR + 1):
        guest.answer(vaddr, ENTRY, READ | WRITE)
        refused(guest, LOOKUP)


def test_too_few_permissions(guest: Faulting) -> None:
    for permissions in (0, READ, WRITE, EXECUTE):
        guest.prepare(permissions=permissions)
        refused(guest, LOOKUP)
    guest.prepare(permissions=READ | WRITE)
    refused(guest, LOOKUP, Fault(proposed=PROPOSED & ~(1 << 63)))
    guest.prepare(permissions=READ | EXECUTE)
    assert guest.offer(Fault(proposed=PROPOSED & ~(1 << 63 | 2))) == MAPPED


def no_entries(guest: Faulting) -> dict[str, int]:
    placed = guest.aperture
    return {
        "unaligned": ENTRY + 4,
        "one byte off": ENTRY + 1,
        "after the end of memory": 16 * MIB,
        "across the end of memory": 16 * MIB - 4,
        "far away": 1 << 50,
        "the last of all": (1 << 64) - 8,
        "a device": 0xD0000000,
        "the local APIC": 0xFEE00000,
        "the aperture": placed.base + SWAPPED * SLOT,
        "the room": placed.start,
        "the end of the room": placed.base - 8,
        "the VM-wide page": guest.address("vm_page") + 0x108,
        "the vCPU's page": guest.address("vcpu_page") + PAGE - 8,
    }


def test_entries_that_do_not_lie_in_memory(guest: Faulting) -> None:
    """Each holds, where it is memory, what the guest says is there."""
    old = OLD.to_bytes(8, "little")
    for name, gpa in no_entries(guest).items():
        if name not in ("the VM-wide page", "the vCPU's page"):
            guest.answer(VADDR, gpa, READ | WRITE)
            refused(guest, PTE)
            continue
        guest.machine.memory.write(gpa, old)
        guest.answer(VADDR, gpa, READ | WRITE)
        refused(guest, PTE)
        assert guest.machine.memory.read(gpa, 8) == old, name
    in_room = guest.aperture.start
    guest.poke(in_room, OLD)
    guest.answer(VADDR, in_room, READ | WRITE)
    refused(guest, PTE)
    assert guest.peek(in_room) == OLD


def test_a_handler_that_fails(guest: Faulting) -> None:
    for lie in (remote.FAILS, remote.FAULTS, remote.RETURNS_FROM_USER):
        guest.set_value("lookup_lie", lie)
        refused(guest, LOOKUP)
    guest.set_value("lookup_lie", 0)
    assert guest.offer() == MAPPED


def test_a_handler_that_never_returns(guest: Faulting) -> None:
    guest.set_value("lookup_lie", remote.NEVER_RETURNS)
    refused(guest, LOOKUP)
    guest.set_value("lookup_lie", 0)
    refused(guest, LOOKUP)  # it takes no symcalls now
    guest.do(remote.REGISTER)
    assert guest.offer() == MAPPED


def test_a_guest_without_symcalls(guest: Faulting) -> None:
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, 0)
    refused(guest, LOOKUP)


def test_a_fault_within_the_symcall_of_a_fault(guest: Faulting) -> None:
    """The inner one is refused; the outer one is not confused by it."""
    guest.set_value("lookup_lie", remote.MAPS)
    assert guest.offer() == MAPPED
    assert [guest.value("lookup_inner", i) for i in range(2)] == [
        lib.SYMBIOTIC_HYPERCALL_DONE,
        LOOKUP,
    ]
    assert guest.entry == guest.slot(SWAPPED) | 1 << 63 | 0x67
    assert guest.swap.stats.refused["lookup"] == 1


def test_an_entry_that_changes_meanwhile(guest: Faulting) -> None:
    """As another vCPU may do while the guest is asked."""
    guest.set_value("lookup_store", ENTRY)
    guest.set_value("lookup_store", OLD + 2, 1)
    assert guest.offer() == RACE
    assert guest.entry == OLD + 2
    guest.set_value("lookup_store", 0)
    guest.prepare()
    assert guest.offer() == MAPPED
    assert guest.offer() == RACE
    assert guest.swap.stats.refused["race"] == 2


def test_a_fault_from_user_mode(guest: Faulting) -> None:
    after = guest.ring(lib.SYMBIOTIC_SWAP_MAP, *Fault(), user=True)
    assert after == [lib.SYMBIOTIC_SWAP_MAP, *Fault(), 0]
    assert guest.entry == OLD
    assert guest.swap.stats.offered == 0
    assert guest.works()


def test_anything_at_all(guest: Faulting) -> None:
    """Random words in all places: the entry is written, or nothing is."""
    numbers = random.Random(7)
    good = [VADDR, SWAPPED, OLD, PROPOSED]
    special = [0, 1, 5, 6, (1 << 64) - 1, ENTRY, guest.aperture.base, 1 << 47, 7, 16 * MIB - 8]
    for _ in range(100):
        guest.prepare()
        said = [
            numbers.choice([word, word, word, numbers.choice(special), numbers.getrandbits(64)])
            for word in (*good, VADDR, ENTRY, 7)
        ]
        guest.answer(*said[4:])
        before = guest.others()
        reason = guest.offer(Fault(*said[:4]))
        if reason == MAPPED and said[5] == ENTRY:
            assert said[1] == SWAPPED
            assert guest.entry & 0x000F_FFFF_FFFF_F000 == guest.slot(SWAPPED)
        elif reason != MAPPED:
            assert guest.others() == before
    assert guest.works()


# Several vCPUs and VMs.


def test_several_machines_at_once() -> None:
    """Each with its own store, its own policy and its own entry."""

    def fault_often(guest: Faulting, wrong: list[int]) -> None:
        for _ in range(200):
            guest.prepare()
            if guest.offer() != MAPPED:
                wrong.append(guest.slot(SWAPPED))

    wrong: list[int] = []
    guests = [Faulting(size=(4 + 2 * i) * MIB) for i in range(3)]
    try:
        for guest in guests:
            guest.start()
        threads = [threading.Thread(target=fault_often, args=(g, wrong)) for g in guests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        for guest in guests:
            assert guest.swap.stats.mapped == 200
            assert guest.peek(VADDR) == int.from_bytes(guest.page[:8], "little")
    finally:
        for guest in guests:
            guest.close()


# A policy in Python.


def test_a_policy_in_python(guest: Faulting) -> None:
    seen: list[SwapFault] = []
    threads: list[str] = []

    def policy(fault: SwapFault) -> bool:
        seen.append(fault)
        threads.append(threading.current_thread().name)
        return len(seen) % 2 == 0

    guest.swap.policy = policy
    refused(guest, POLICY)
    assert guest.value("lookups") == 0
    assert guest.offer() == MAPPED
    assert seen == [SwapFault(0, VADDR, SWAPPED, guest.store)] * 2
    assert seen[0].bytes_used == guest.swap.stats.bytes_used > 0
    assert threads == ["vcpu0"] * 2
    # It is asked only about what could be.
    assert guest.offer(Fault(slot=0)) == SLOT_
    assert len(seen) == 2
    guest.prepare()
    guest.swap.policy = "always"
    assert guest.offer() == MAPPED
    assert len(seen) == 2


def test_a_policy_that_looks_into_the_guest(guest: Faulting) -> None:
    """Registers and symcalls, on the same vCPU, before it decides."""
    vcpu = guest.machine.vcpus[0]

    def policy(fault: SwapFault) -> bool:
        assert vcpu.kvm.get_regs().rbx == fault.vaddr
        for i in range(3):
            assert vcpu.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
        return bool(vcpu.symcall(lib.SYMCALL_MEM_LOOKUP, fault.vaddr, OLD, READ).rdx & WRITE)

    guest.swap.policy = policy
    for _ in range(5):
        guest.prepare()
        assert guest.offer() == MAPPED
        assert guest.peek(VADDR) == int.from_bytes(guest.page[:8], "little")
    guest.prepare(permissions=READ)
    assert guest.offer(Fault(proposed=PROPOSED & ~2)) == POLICY
    assert guest.works()


def test_a_policy_that_raises(guest: Faulting) -> None:
    def policy(fault: SwapFault) -> bool:
        raise KeyError(fault.slot)

    guest.swap.policy = policy
    guest.post(remote.DOORBELL, lib.SYMBIOTIC_SWAP_MAP, *Fault(), 0)
    with pytest.raises(KeyError):
        guest.machine.wait(remote.PATIENCE)
    assert guest.entry == OLD


# The end in the middle of one.


def test_a_stop_and_a_pause_while_the_guest_is_asked() -> None:
    with Faulting(symcall_deadline=600.0) as guest:
        guest.start()
        guest.set_value("lookup_lie", remote.NEVER_RETURNS)
        guest.post(remote.DOORBELL, lib.SYMBIOTIC_SWAP_MAP, *Fault(), 0)
        while not guest.value("spins"):
            pass
        guest.machine.stop()
        result = guest.machine.wait(remote.PATIENCE)
        assert result is not None
        assert result.reason == "stopped"
        assert guest.entry == OLD


def test_a_pause_among_faults(guest: Faulting) -> None:
    machine: Machine = guest.machine
    ended = threading.Event()

    def pause_often() -> None:
        while not ended.wait(0.001):
            machine.pause()
            machine.resume()

    thread = threading.Thread(target=pause_often)
    thread.start()
    try:
        for _ in range(50):
            guest.prepare()
            assert guest.offer() == MAPPED
    finally:
        ended.set()
        thread.join()
    assert guest.works()
