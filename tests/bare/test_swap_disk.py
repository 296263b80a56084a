# SPDX-License-Identifier: Apache-2.0
"""A swap store as the guest sees it: a disk, an aperture of the same bytes, and what is announced of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvmm
from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError, StateError
from pyvmm.machine.memory import GIB, MIB, PAGE
from pyvmm.swap.store import SLOT
from tests.support import remote, remote_swap
from tests.support.remote import Remote
from tests.support.remote_swap import SIZE, SwapGuest

ELSEWHERE = 0x400000


@pytest.fixture
def guest() -> Iterator[SwapGuest]:
    with SwapGuest() as made:
        made.start()
        yield made


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(SLOT)


def first_word(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


# The same bytes twice.


def test_what_the_disk_wrote_is_in_the_aperture(guest: SwapGuest) -> None:
    for slot in (1, 7, guest.swap.slots - 1):
        guest.swap_out(slot, page(slot))
        assert guest.peek(guest.slot(slot)) == first_word(page(slot))
        assert guest.machine.memory.read(guest.slot(slot), SLOT) == page(slot)
        assert guest.store.written(slot)
    assert not guest.store.written(2)


def test_what_the_guest_wrote_is_on_the_disk(guest: SwapGuest) -> None:
    guest.swap_out(3, page(3))
    guest.poke(guest.slot(3) + 8, 0x1122334455667788)
    guest.poke(guest.slot(5), 0x99)
    assert guest.swap_in(3) == page(3)[:8] + bytes.fromhex("8877665544332211") + page(3)[16:]
    assert guest.swap_in(5) == b"\x99" + bytes(SLOT - 1)
    assert guest.store.written(5)


def test_a_discard_clears_both(guest: SwapGuest) -> None:
    for slot in range(8, 16):
        guest.swap_out(slot, page(slot))
    used = guest.swap.stats.bytes_used
    guest.discard(9, 6)
    assert [guest.store.written(slot) for slot in range(8, 16)] == [True] + [False] * 6 + [True]
    assert guest.swap.stats.bytes_used == used - 6 * SLOT
    assert guest.peek(guest.slot(9)) == 0
    assert guest.peek(guest.slot(15)) == first_word(page(15))


def test_huge_pages() -> None:
    """Where the host has them: parts of one are discarded, and filled again from either side."""
    with SwapGuest(huge=True) as guest:
        guest.start()
        content = {slot: bytes(SLOT) for slot in range(guest.swap.slots)}
        for slot in (1, 7, 8, 9, 300, 511, 512, 1023):
            content[slot] = page(slot)
            guest.swap_out(slot, content[slot])
        for first, count in ((8, 1), (500, 20), (9, 1)):
            guest.discard(first, count)
            content.update(dict.fromkeys(range(first, first + count), bytes(SLOT)))
            assert guest.machine.memory.read(guest.aperture.base, SIZE) == b"".join(
                content.values()
            )
            assert guest.peek(guest.slot(first)) == 0
        content[8] = page(88)
        guest.swap_out(8, content[8])
        guest.poke(guest.slot(510) + 8, 0x1122334455667788)
        content[510] = bytes(8) + (0x1122334455667788).to_bytes(8, "little") + bytes(SLOT - 16)
        assert guest.peek(guest.slot(8)) == first_word(page(88))
        assert all(guest.swap_in(slot) == content[slot] for slot in (7, 8, 9, 510, 511, 1023))
        guest.discard(0, guest.swap.slots)
        assert guest.swap.stats.bytes_used == 0
        assert guest.peek(guest.slot(1023)) == guest.peek(guest.slot(510) + 8) == 0


def test_the_memory_goes_with_the_machine() -> None:
    guest = SwapGuest()
    assert guest.store.memory is not None
    mapping = guest.store.memory.map
    guest.start()
    guest.swap_out(1, page(1))
    assert not mapping.closed
    guest.close()
    assert mapping.closed


def test_another_disk_moves_data_of_a_page_in_the_aperture(guest: SwapGuest) -> None:
    """As O_DIRECT does with a page that the guest uses where it lies: here with the same disk."""
    guest.swap_out(1, page(1))
    guest.request(remote_swap.WRITE_OUT, 2, guest.slot(1))
    guest.request(remote_swap.READ, 2, guest.slot(4))
    assert guest.machine.memory.read(guest.slot(4), SLOT) == page(1)
    guest.request(remote_swap.WRITE_OUT, 1, guest.slot(1))
    assert guest.machine.memory.read(guest.slot(1), SLOT) == page(1)


def test_the_room_is_memory(guest: SwapGuest) -> None:
    placed = guest.aperture
    assert placed.start == 4 * GIB
    for address in (placed.start, placed.base - 8):
        assert guest.peek(address) == 0
        guest.poke(address, 0x55)
        assert guest.peek(address) == 0x55
    assert guest.swap.stats.bytes_used == 0


def test_nothing_of_another_guest() -> None:
    """Each begins with zeroes, while the other runs and after it is gone."""
    with SwapGuest() as first:
        first.start()
        for slot in range(first.swap.slots):
            first.swap_out(slot, page(slot))
        with SwapGuest() as second:
            second.start()
            assert second.machine.memory.read(second.aperture.base, SIZE) == bytes(SIZE)
            second.swap_out(1, page(77))
            assert first.peek(first.slot(1)) == first_word(page(1))
    with SwapGuest() as third:
        third.start()
        assert all(third.peek(third.slot(slot)) == 0 for slot in range(0, third.swap.slots, 97))
        assert third.swap_in(1) == bytes(SLOT)


def test_memory_above_4_gib() -> None:
    with pyvmm.VM(5 * GIB) as vm:
        swap = vm.add_swap("64M")
        assert swap.aperture is not None
        assert swap.aperture.start == 6 * GIB
        vm.memory.write(swap.aperture.base + PAGE, b"slot")
        assert vm.memory.read(swap.aperture.base + PAGE, 4) == b"slot"
        assert vm.memory.read(5 * GIB + GIB - 4, 4) == bytes(4)


# What is announced.


def test_the_announcement(guest: SwapGuest) -> None:
    placed = guest.aperture
    assert guest.announced() == {
        "size": 0x40,
        "mode": lib.SYMBIOTIC_SWAP_SYMCALL,
        "aperture": (placed.base, placed.size, placed.room),
        "serial": b"pyvmm-swap",
    }
    guest.do(remote.CPUID, lib.SYMBIOTIC_CPUID_LEAF, 0)
    spy, call = lib.SYMBIOTIC_FEATURE_SYMSPY, lib.SYMBIOTIC_FEATURE_SYMCALL
    assert guest.result(3) == spy | call | lib.SYMBIOTIC_FEATURE_SWAPBYPASS


def test_a_mode_reaches_the_page_and_the_next_page(guest: SwapGuest) -> None:
    for mode, number in (("off", 0), ("direct", 2), ("symcall", 1), ("direct", 2)):
        guest.swap.mode = mode
        assert guest.swap.mode == guest.swap.effective == mode
        assert guest.announced()["mode"] == number
    before = guest.announced()
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VM_PAGE, ELSEWHERE)
    moved = remote_swap.announced(guest.machine.memory.read(ELSEWHERE, lib.SYMBIOTIC_PAGE_SIZE))
    assert moved == before
    mode_at = ffi.offsetof("struct symbiotic_vm_page", "swap_mode")
    guest.swap.mode = "off"
    assert guest.announced()["mode"] == 2, "the old page is the guest's own"
    assert guest.peek(ELSEWHERE + mode_at) & 0xFFFFFFFF == 0
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VM_PAGE, 0)
    guest.swap.mode = "symcall"
    guest.do(remote.REGISTER)
    assert guest.announced()["mode"] == 1
    with pytest.raises(ConfigError, match="choose from off, symcall, direct"):
        guest.swap.mode = "on"


@pytest.mark.parametrize("index", [lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_VCPU_PAGE])
def test_no_shared_page_in_the_aperture(guest: SwapGuest, index: int) -> None:
    placed = guest.aperture
    for address in (placed.start, placed.base - PAGE, placed.base, placed.end - PAGE):
        assert not guest.wrmsr(index, address)
    assert guest.counters() == {"pages_refused": 4}
    assert guest.works()


def test_without_a_store() -> None:
    with Remote().start() as guest:
        for number in (lib.SYMBIOTIC_SWAP_ATTACH, lib.SYMBIOTIC_SWAP_DETACH):
            assert guest.ring(number, 1 << 32, SIZE)[0] == lib.SYMBIOTIC_HYPERCALL_REFUSED
        assert guest.works()


# What the guest takes.


def test_attach_and_detach(guest: SwapGuest) -> None:
    assert not guest.swap.stats.attached
    assert guest.detach() == lib.SYMBIOTIC_HYPERCALL_REFUSED
    for _ in range(2):
        assert guest.attach() == lib.SYMBIOTIC_HYPERCALL_DONE
        assert guest.swap.stats.attached
        assert guest.attach() == lib.SYMBIOTIC_HYPERCALL_REFUSED, "twice"
        assert guest.detach() == lib.SYMBIOTIC_HYPERCALL_DONE
        assert not guest.swap.stats.attached
    assert guest.swap.stats.attach_refused == 3


def test_attach_with_other_values(guest: SwapGuest) -> None:
    base, size = guest.aperture.base, guest.aperture.size
    wrong = [(base + PAGE, size), (base, size - PAGE), (base, 0), (0, size), (size, base), (0, 0)]
    for arguments in wrong:
        answer = guest.ring(lib.SYMBIOTIC_SWAP_ATTACH, *arguments)
        assert answer[0] == lib.SYMBIOTIC_HYPERCALL_REFUSED
    assert (
        guest.ring(lib.SYMBIOTIC_SWAP_ATTACH, base, size, user=True)[0]
        != lib.SYMBIOTIC_HYPERCALL_DONE
    )
    assert not guest.swap.stats.attached
    assert guest.swap.stats.attach_refused == len(wrong)
    assert guest.attach() == lib.SYMBIOTIC_HYPERCALL_DONE


# From Python.


def test_what_cannot_be_added(tmp_path: Path) -> None:
    with pyvmm.VM("64M") as vm:
        vm.add_disk(_disk(tmp_path / "a"), serial="taken")
        for options in (
            {"size": "3M"},
            {"size": 0},
            {"size": "1G", "bypass": "on"},
            {"size": "1G", "serial": ""},
            {"size": "1G", "serial": "x" * 21},
            {"size": "1G", "serial": "taken"},
            {"size": "9T"},
        ):
            with pytest.raises(ConfigError):
                vm.add_swap(**options)  # type: ignore[arg-type]
        assert vm.swap is None
        assert vm.memory.reserved == ()
        swap = vm.add_swap("64M", "direct")
        assert vm.swap is swap
        assert (swap.size, swap.slots) == (64 * MIB, 64 * MIB // PAGE)
        with pytest.raises(ConfigError, match="added already"):
            vm.add_swap("64M")
        with pytest.raises(ConfigError, match="the swap disk has it"):
            vm.add_disk(_disk(tmp_path / "b"), serial=swap.serial)
        vm.add_disk(_disk(tmp_path / "c"), serial="other")
    with pytest.raises(StateError):
        _ = swap.stats
    with pytest.raises(StateError):
        swap.mode = "off"
    with pytest.raises(StateError):
        _ = swap.effective


def test_a_machine_that_is_not_symbiotic_has_a_disk() -> None:
    with (
        pyvmm.VM("64M", symbiotic=False) as vm,
        pytest.raises(ConfigError, match="needs a symbiotic machine"),
    ):
        vm.add_swap("64M", "direct")
    with pyvmm.VM("64M", symbiotic=False) as vm:
        swap = vm.add_swap("64M")
        assert swap.aperture is None
        assert swap.mode == swap.effective == "off"
        assert vm.memory.reserved == ()
        assert swap.stats.bytes_used == 0
        with pytest.raises(ConfigError):
            swap.mode = "direct"


def test_a_file_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    with pyvmm.VM("64M") as vm:
        swap = vm.add_swap("64M", backing=path)
        assert swap.backing == str(path)
        assert swap.aperture is not None
        vm.memory.write(swap.aperture.base + PAGE, b"slot")
        assert path.read_bytes()[PAGE : PAGE + 4] == b"slot"
        with pyvmm.VM("64M") as other, pytest.raises(HostError, match="in use"):
            other.add_swap("64M", backing=path)
    assert not path.exists()


def _disk(path: Path) -> Path:
    path.write_bytes(bytes(MIB))
    return path


def test_the_memory_stays_until_the_devices_are_gone(guest: SwapGuest) -> None:
    """A disk that was added first may still move data of a page in the aperture when the machine is closed."""
    view = guest.machine.memory.view(guest.slot(1), SLOT)
    guest.close()
    assert bytes(view) == bytes(SLOT)
    view.release()


def test_the_guests_address_width_is_heeded() -> None:
    with pyvmm.VM("64M") as vm:
        for i in range(vm.vcpus[0].cpuid.nent):
            entry = vm.vcpus[0].cpuid.entries[i]
            if entry.function == 0x80000008:
                entry.eax = 34
        with pytest.raises(ConfigError, match="34 bits"):
            vm.add_swap("16G")


def test_accesses_to_the_aperture_do_not_exit() -> None:
    with pyvmm.VM("64M") as vm:
        swap = vm.add_swap("64M")
        assert swap.aperture is not None
        for address in (swap.aperture.start, swap.aperture.end - PAGE):
            with pytest.raises(ConfigError, match=r"swap disk.s memory"):
                vm.machine.on_mmio(address, PAGE, lambda exit: None)
        vm.machine.on_mmio(swap.aperture.end, PAGE, lambda exit: None)
