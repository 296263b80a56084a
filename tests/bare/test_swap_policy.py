# SPDX-License-Identifier: Apache-2.0
"""Policies: what the guest is told, and asked for, when the host has too little memory."""

from __future__ import annotations

import mmap
import re
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import pyvmm
from pyvmm._core import lib
from pyvmm.errors import ConfigError, GuestDataError, StateError, SymcallError
from pyvmm.machine.memory import MIB
from pyvmm.swap import evictor, governor
from pyvmm.swap.bypass import MODES
from pyvmm.swap.store import SLOT
from pyvmm.symbiotic import swapstats
from tests.support import remote, waiting
from tests.support.faulting import MAPPED, POLICY, Faulting
from tests.support.remote_swap import SwapGuest

until = partial(waiting.until, seconds=remote.PATIENCE)

PSI = "some avg10={} avg60=0.00 avg300=0.00 total=0\n"
#: As the guest's MEMORY: page size, total and free, and the rest of it.
FREE = 128 * MIB
MEMORY = struct.pack("<II14Q", 120, 4096, 256 * MIB, FREE, *[0] * 12)
ADOPTED = 5000
MADV_POPULATE_WRITE = 23  # <asm-generic/mman-common.h>
SWAP = struct.pack("<II3Q", 32, 3, 1023, 700, ADOPTED)


class Host:
    """The files that the governor reads, and a period of some milliseconds."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._pressure = folder / "pressure"
        patch.setattr(governor, "PRESSURE", str(self._pressure))
        patch.setattr(governor, "MEMINFO", str(folder / "meminfo"))
        patch.setattr(governor, "OWN_GROUPS", str(folder / "cgroup"))
        patch.setattr(governor, "PERIOD", 5)
        (folder / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 500 kB\n")
        self.stall("0.00")

    def stall(self, text: str) -> None:
        new = self._pressure.with_suffix(".new")
        new.write_text(PSI.format(text))
        new.rename(self._pressure)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


class Pressed(Faulting):
    """A guest under that policy, whose RAM the host has given but for what a test leaves out."""

    def grows_by_huge_pages(self) -> bool:
        """As /proc says it of the mapping of the store."""
        memory = self.swap.store.memory
        assert memory is not None
        with open("/proc/self/smaps", encoding="ascii") as file:
            for line in file:
                if found := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
                    inside = int(found[1], 16) <= memory.address < int(found[2], 16)
                elif inside and line.startswith("VmFlags:"):
                    return "hg" in line.split() and "nh" not in line.split()
        raise AssertionError("the store is not mapped")


@pytest.fixture
def guest(host: Host) -> Iterator[Pressed]:
    with Pressed(policy="pressure", symcall_deadline=remote.deadline()) as made:
        made.start()
        memory = made.machine.memory
        memory._map.madvise(MADV_POPULATE_WRITE, memory._skip, memory.size)
        yield made


@pytest.mark.parametrize("mode", [lib.SYMBIOTIC_SWAP_SYMCALL, lib.SYMBIOTIC_SWAP_DIRECT])
def test_under_pressure_pages_are_used_where_they_lie(
    guest: Pressed, host: Host, mode: int
) -> None:
    """What is refused is growth: the store gets small pages, until there is memory again."""
    guest.swap.mode = MODES[mode]
    guest.prepare()
    guest.store.memory.map.madvise(mmap.MADV_HUGEPAGE)  # as it is made
    assert guest.grows_by_huge_pages()
    host.stall("42.50")
    until(lambda: not guest.swap.stats.allowed)
    assert not guest.grows_by_huge_pages()
    assert guest.announced()["mode"] == mode
    assert guest.swap.effective == guest.swap.mode
    assert guest.offer() == MAPPED
    assert guest.swap.stats.host == (42.5, 1000 << 10, 500 << 10, None, None)
    host.stall("0.00")
    until(lambda: guest.swap.stats.allowed)
    assert guest.grows_by_huge_pages()
    guest.swap.policy = "always"
    host.stall("42.50")
    until(lambda: guest.swap.stats.allowed)
    assert guest.grows_by_huge_pages()


def test_a_policy_is_changed_while_the_guest_runs(guest: Pressed) -> None:
    for policy, mode in (("never", 0), ("always", 1), ("pressure", 1), ("never", 0)):
        guest.swap.policy = policy
        assert guest.swap.policy == policy
        assert guest.announced()["mode"] == mode
    with pytest.raises(ConfigError, match="choose from"):
        guest.swap.policy = "sometimes"
    with pytest.raises(ConfigError, match="needs one"):
        guest.swap.policy = "quota"
    assert guest.swap.policy == "never"
    guest.swap.quota = 1 << 20
    guest.swap.policy = "quota"
    assert guest.announced()["mode"] == 1
    guest.swap.quota = 1
    assert guest.announced()["mode"] == 0
    with pytest.raises(ConfigError):
        guest.swap.quota = None
    assert guest.swap.quota == 1


def test_a_quota_follows_the_store(host: Host) -> None:
    with SwapGuest(policy="always") as guest:
        guest.start()
        guest.swap.quota = 4 * SLOT
        guest.swap.policy = "quota"
        for slot in range(1, 6):
            guest.swap_out(slot, b"x" * SLOT)
        until(lambda: guest.announced()["mode"] == lib.SYMBIOTIC_SWAP_OFF)
        guest.discard(1, 2)
        until(lambda: guest.announced()["mode"] == lib.SYMBIOTIC_SWAP_SYMCALL)


def test_a_function_is_asked_about_faults_so_there_must_be_some(guest: Pressed) -> None:
    guest.swap.mode = "direct"
    assert guest.announced()["mode"] == lib.SYMBIOTIC_SWAP_DIRECT
    guest.swap.policy = lambda fault: False
    assert guest.announced()["mode"] == lib.SYMBIOTIC_SWAP_SYMCALL
    assert (guest.swap.mode, guest.swap.effective) == ("direct", "symcall")
    assert guest.offer() == POLICY
    guest.swap.policy = "always"
    assert guest.swap.effective == "direct"


# Handing pages back.


def test_under_pressure_the_guest_is_asked_for_pages(guest: Pressed, host: Host) -> None:
    guest.can(lib.SYMCALL_MEMORY, len(MEMORY), MEMORY)
    guest.can(lib.SYMCALL_SWAP_STATS, len(SWAP), SWAP)
    guest.can(lib.SYMCALL_SWAP_EVICT, ADOPTED)
    assert guest.swap.stats.evictions == 0
    host.stall("42.50")
    until(lambda: guest.swap.stats.evictions > 1)
    asked = lib.SYMCALL_SWAP_EVICT - 0x100
    assert guest.value("canned_asked", asked) == min(ADOPTED, evictor.BATCH)
    # Half of what it has free beyond what it keeps.
    kept = 256 * MIB // evictor.RESERVE
    little = struct.pack("<II14Q", 120, 4096, 256 * MIB, kept + 100 * SLOT, *[0] * 12)
    guest.can(lib.SYMCALL_MEMORY, len(little), little)
    until(lambda: guest.value("canned_asked", asked) == 50)
    none = struct.pack("<II14Q", 120, 4096, 256 * MIB, kept, *[0] * 12)
    guest.can(lib.SYMCALL_MEMORY, len(none), none)
    guest.set_value("canned_asked", 0, asked)
    asked_so_far = guest.swap.stats.evictions
    time.sleep(0.1)
    assert guest.swap.stats.evictions <= asked_so_far + 1
    host.stall("0.00")
    until(lambda: guest.swap.stats.allowed)
    assert guest.works()


def test_no_page_moves_to_ram_that_the_host_has_yet_to_give(guest: Pressed, host: Host) -> None:
    """It would be one more for the host. A quota is about the store alone, and asks for it."""
    memory = guest.machine.memory
    given = memory.resident
    memory._map.madvise(mmap.MADV_DONTNEED, memory._skip + 10 * MIB, 4 * MIB)
    assert memory.resident == given - 4 * MIB
    free = struct.pack("<II14Q", 120, 4096, 32 * MIB, 6 * MIB, *[0] * 12)  # of which 2 are kept
    guest.can(lib.SYMCALL_MEMORY, len(free), free)
    guest.can(lib.SYMCALL_SWAP_STATS, len(SWAP), SWAP)
    guest.can(lib.SYMCALL_SWAP_EVICT, ADOPTED)
    host.stall("42.50")
    before = guest.machine.symcalls["returned"]
    until(lambda: guest.machine.symcalls["returned"] > before + 6)
    assert guest.swap.stats.evictions == 0
    guest.swap.quota = 0
    guest.swap.policy = "quota"
    guest.swap_out(3, b"x" * SLOT)
    until(lambda: guest.swap.stats.evictions > 0)
    asked = lib.SYMCALL_SWAP_EVICT - 0x100
    assert guest.value("canned_asked", asked) == 4 * MIB // 2 // SLOT


def test_a_guest_that_lies_under_pressure(guest: Pressed, host: Host) -> None:
    """The thread goes on, and asks again."""
    host.stall("42.50")
    until(lambda: guest.machine.symcalls["returned"] > 3)
    guest.can(lib.SYMCALL_SWAP_STATS, 1 << 40)
    before = guest.machine.symcalls["returned"]
    until(lambda: guest.machine.symcalls["returned"] > before + 3)
    guest.can(lib.SYMCALL_SWAP_STATS, len(SWAP), SWAP)
    guest.can(lib.SYMCALL_MEMORY, len(MEMORY), MEMORY)
    until(lambda: guest.swap.stats.evictions > 0)


def test_evict(guest: Pressed) -> None:
    asked = lib.SYMCALL_SWAP_EVICT - 0x100
    guest.can(lib.SYMCALL_SWAP_EVICT, ADOPTED)
    assert guest.swap.evict() == ADOPTED
    assert guest.value("canned_asked", asked) == guest.swap.slots
    assert guest.swap.evict(17) == ADOPTED
    assert guest.value("canned_asked", asked) == 17
    with pytest.raises(ConfigError):
        guest.swap.evict(0)
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, 0)
    with pytest.raises(SymcallError):
        guest.swap.evict()


def test_what_the_guest_says(guest: Pressed) -> None:
    assert guest.swap.stats.guest is None
    with pytest.raises(GuestDataError):
        swapstats.swap_stats(guest.machine.raw(0))
    guest.can(lib.SYMCALL_SWAP_STATS, len(SWAP), SWAP)
    stats = guest.swap.stats.guest
    assert stats is not None
    assert (stats.mapped, stats.on, stats.evicting) == (True, True, False)
    assert (stats.slots, stats.used, stats.adopted, stats.freed) == (1023, 700, ADOPTED, 0)
    assert stats == swapstats.swap_stats(guest.machine.raw(0))
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, 0)
    assert guest.swap.stats.guest is None
    guest.do(remote.REGISTER)
    assert guest.swap.stats.guest is not None
    assert guest.detach() == lib.SYMBIOTIC_HYPERCALL_DONE
    assert guest.swap.stats.guest is None


# From Python.


def test_policies_that_cannot_be(host: Host) -> None:
    with pyvmm.VM("64M") as vm:
        for options in (
            {"policy": "sometimes"}, {"policy": "quota"}, {"quota": "x"}, {"policy": None}, {"policy": 5},
        ):  # fmt: skip
            with pytest.raises(ConfigError):
                vm.add_swap("64M", "direct", **options)  # type: ignore[arg-type]
        swap = vm.add_swap("64M", "direct", policy="quota", quota="32M")
        assert (swap.policy, swap.quota, swap.effective) == ("quota", 32 * MIB, "direct")
        for policy in (None, 5):
            with pytest.raises(ConfigError, match="choose from"):
                swap.policy = policy  # type: ignore[assignment]
        swap.policy = lambda fault: True
        assert swap.effective == "symcall"
        assert swap.stats.guest is None
    for act in (lambda: setattr(swap, "policy", "always"), lambda: swap.stats, swap.evict):
        with pytest.raises(StateError):
            act()


def test_names_of_symcalls() -> None:
    from pyvmm.machine.symcall import typed

    assert typed("swap_stats") is swapstats.swap_stats
    assert typed("swap_evict") is swapstats.swap_evict


def test_threads_end_with_the_machine(host: Host) -> None:
    import os
    import threading

    before = set(os.listdir("/proc/self/task"))
    host.stall("42.50")
    for _ in range(5):
        with SwapGuest(policy="pressure") as guest:
            guest.start()
            names = {thread.name for thread in threading.enumerate()}
            assert "swap-evict" in names
    until(lambda: set(os.listdir("/proc/self/task")) <= before)
