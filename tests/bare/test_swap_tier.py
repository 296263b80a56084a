# SPDX-License-Identifier: Apache-2.0
"""A guest that uses the swap disk's memory as a tier: the disk is closed, and three hypercalls are for it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvmm
from pyvmm._core import lib
from pyvmm.machine.memory import MIB
from pyvmm.swap.bypass import SwapMove
from pyvmm.swap.store import SLOT
from tests.support import remote
from tests.support.remote_swap import DATA, DISCARD, READ, SIZE, WRITE_OUT, SwapGuest

DONE, REFUSED = lib.SYMBIOTIC_HYPERCALL_DONE, lib.SYMBIOTIC_HYPERCALL_REFUSED
AHEAD, BEHIND = lib.SYMBIOTIC_MOVE_AHEAD, lib.SYMBIOTIC_MOVE_BEHIND
FAILED = 1  # VIRTIO_BLK_S_IOERR
SECTORS = SIZE // 512
SLOTS = SIZE // SLOT
PAGE = bytes(range(256)) * (SLOT // 256)


@pytest.fixture
def guest() -> Iterator[SwapGuest]:
    with SwapGuest() as made:
        made.start()
        yield made


@pytest.fixture
def tier(guest: SwapGuest) -> SwapGuest:
    assert guest.attach_tier()[0] == DONE
    return guest


def discard(guest: SwapGuest, slot: int, count: int) -> int:
    return guest.ring(lib.SYMBIOTIC_SWAP_DISCARD, slot, count)[0]


def move(guest: SwapGuest, pages: int, reason: int = AHEAD) -> tuple[int, int]:
    """RAX, and how many may."""
    answer = guest.ring(lib.SYMBIOTIC_SWAP_MOVE, pages, reason)
    return answer[0], answer[1]


# The disk.


def test_the_disk_is_closed_while_it_is_a_tier(guest: SwapGuest) -> None:
    guest.swap_out(0, PAGE)
    assert guest.sectors == SECTORS
    assert guest.attach_tier()[0] == DONE
    assert guest.swap.stats.attached
    assert guest.swap.stats.tier
    assert guest.sectors == 0
    guest.poke(guest.slot(1), 0x1234)
    for kind, slot in ((READ, 0), (READ, 1), (WRITE_OUT, 1)):
        guest.request(kind, slot, DATA, status=FAILED)
    guest.machine.memory.write(DATA, bytes(8) + (8 * SLOTS).to_bytes(4, "little") + bytes(4))
    guest.request(DISCARD, 0, DATA, 16, status=FAILED)
    assert guest.peek(guest.slot(1)) == 0x1234
    guest.identify()  # who looks for it finds it still
    assert guest.detach() == DONE
    assert not guest.swap.stats.tier
    assert guest.sectors == SECTORS
    assert guest.swap_in(0) == PAGE, "the header is what it was"
    guest.swap_out(1, PAGE)
    assert guest.swap_in(1) == PAGE


def test_no_tier_on_a_disk_that_holds_data(guest: SwapGuest) -> None:
    guest.swap_out(0, PAGE)
    guest.swap_out(SLOTS - 1, PAGE)
    assert guest.attach_tier() == (REFUSED, lib.SYMBIOTIC_SWAP_HOLDS_DATA)
    assert not guest.swap.stats.attached
    assert guest.sectors == SECTORS
    assert guest.swap_in(SLOTS - 1) == PAGE
    assert guest.attach() == DONE, "as a swap disk it may be used"
    assert guest.detach() == DONE
    guest.discard(1, SLOTS - 1)
    assert guest.attach_tier()[0] == DONE
    assert guest.swap.stats.attach_refused == 1


def test_what_cannot_be_attached(guest: SwapGuest) -> None:
    base, size = guest.aperture.base, guest.aperture.size
    for flags in (2, 3, 1 << 63, (1 << 64) - 1):
        assert guest.attach(flags) == REFUSED
    for arguments in ((base + SLOT, size, 1), (base, size - SLOT, 1), (0, 0, 1)):
        assert guest.ring(lib.SYMBIOTIC_SWAP_ATTACH, *arguments)[:2] == [REFUSED, 0]
    assert guest.sectors == SECTORS
    assert guest.attach() == DONE
    assert guest.attach_tier() == (REFUSED, 0), "twice"
    assert guest.sectors == SECTORS
    assert not guest.swap.stats.tier
    guest.swap_out(5, PAGE)
    assert guest.swap_in(5) == PAGE


def test_again_and_again(guest: SwapGuest) -> None:
    for _ in range(20):
        assert guest.attach_tier()[0] == DONE
        assert guest.attach_tier()[0] == REFUSED
        assert guest.detach() == DONE
        assert guest.detach() == REFUSED
        guest.swap_out(0, PAGE)
    assert guest.works()


def test_no_fault_is_mapped_in_a_tier(tier: SwapGuest) -> None:
    answer = tier.ring(lib.SYMBIOTIC_SWAP_MAP, 0x1000, 1, 2, 7)
    assert answer[:2] == [DONE, lib.SYMBIOTIC_SWAP_BAD_MODE]


# What is free goes back.


def test_a_discard_gives_memory_back(tier: SwapGuest) -> None:
    for slot in range(1, 9):
        tier.poke(tier.slot(slot), slot)
    used = tier.swap.bytes_used
    assert used == 8 * SLOT
    assert discard(tier, 2, 3) == DONE
    assert tier.swap.bytes_used == used - 3 * SLOT
    assert [tier.peek(tier.slot(slot)) for slot in range(1, 9)] == [1, 0, 0, 0, 5, 6, 7, 8]
    assert tier.swap.stats.discarded == 3
    assert discard(tier, 1, SLOTS - 1) == DONE
    assert tier.swap.bytes_used == 0


@pytest.mark.parametrize(
    ("slot", "count"),
    [
        (0, 1),
        (0, SLOTS),
        (1, 0),
        (1, SLOTS),
        (SLOTS, 1),
        (SLOTS - 1, 2),
        (1, lib.SYMBIOTIC_SWAP_DISCARD_SLOTS + 1),
        (1, (1 << 64) - 1),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 1, 2),
        (1 << 52, 1 << 12),
    ],
)
def test_discards_that_cannot_be(tier: SwapGuest, slot: int, count: int) -> None:
    for at in (0, 1, SLOTS - 1):
        tier.poke(tier.slot(at), at + 1)
    assert discard(tier, slot, count) == REFUSED
    assert [tier.peek(tier.slot(at)) for at in (0, 1, SLOTS - 1)] == [1, 2, SLOTS]
    assert tier.swap.stats.discarded == 0


def test_a_discard_has_a_bound() -> None:
    """One call gives back so much and no more, however large the disk is."""
    most = lib.SYMBIOTIC_SWAP_DISCARD_SLOTS
    with SwapGuest(size=2 * most * SLOT) as guest:
        guest.start()
        assert guest.attach_tier()[0] == DONE
        assert discard(guest, 1, most) == DONE
        assert discard(guest, 1, most + 1) == REFUSED


def test_only_a_tier_discards_and_moves(guest: SwapGuest) -> None:
    for _ in range(2):
        assert discard(guest, 1, 1) == REFUSED
        assert move(guest, 1)[0] == REFUSED
        guest.attach()
    assert guest.swap.stats.asked == 0
    assert guest.works()


# Pages that are to move.


def test_who_may_move(tier: SwapGuest) -> None:
    assert move(tier, 100) == (DONE, 100)
    assert move(tier, 100, BEHIND) == (DONE, 100)
    tier.swap.policy = "never"
    assert move(tier, 100) == (DONE, 0)
    tier.swap.policy = "always"
    tier.swap.mode = "off"
    assert move(tier, 100) == (DONE, 0)
    tier.swap.mode = "direct"
    assert move(tier, SLOTS) == (DONE, SLOTS)
    stats = tier.swap.stats
    assert (stats.asked, stats.granted) == (400 + SLOTS, 200 + SLOTS)


@pytest.mark.parametrize(
    ("pages", "reason"),
    [(0, AHEAD), (SLOTS + 1, AHEAD), ((1 << 64) - 1, BEHIND), (1, 0), (1, 3), (1, 1 << 32 | 1)],
)
def test_moves_that_cannot_be(tier: SwapGuest, pages: int, reason: int) -> None:
    tier.swap.policy = lambda move: 1 // 0  # nobody is asked
    assert move(tier, pages, reason)[0] == REFUSED
    assert tier.swap.stats.asked == 0


def test_a_function_says_how_many(tier: SwapGuest) -> None:
    seen: list[SwapMove] = []
    answers: list[bool | int] = [True, False, 7, 1000, -3]

    def policy(move: SwapMove) -> bool | int:
        seen.append(move)
        assert tier.machine.vcpus[0].symcall(lib.SYMCALL_TEST, 1).rbx == 2
        return answers[len(seen) - 1]

    tier.swap.policy = policy
    assert [move(tier, 64, BEHIND)[1] for _ in answers] == [64, 0, 7, 64, 0]
    assert seen == [SwapMove(0, 64, "behind", tier.store)] * len(answers)
    assert seen[0].bytes_used == tier.swap.bytes_used


def test_a_function_that_raises(tier: SwapGuest) -> None:
    def policy(move: SwapMove) -> bool:
        raise KeyError(move.pages)

    tier.swap.policy = policy
    tier.post(remote.DOORBELL, lib.SYMBIOTIC_SWAP_MOVE, 5, AHEAD, 0, 0, 0)
    with pytest.raises(KeyError):
        tier.machine.wait(remote.PATIENCE)


def test_a_file_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    with pyvmm.VM("64M") as vm:
        swap = vm.add_swap("64M", backing=path)
        store = swap.store
        assert lib.swapstore_take(store.handle.pointer) == 0
        assert swap.aperture is not None
        vm.memory.write(swap.aperture.base + 3 * SLOT, PAGE)
        assert swap.bytes_used >= SLOT
        assert lib.swapstore_discard(store.handle.pointer, 1, 4) == 0
        assert vm.memory.read(swap.aperture.base + 3 * SLOT, SLOT) == bytes(SLOT)
        assert swap.size == 64 * MIB
