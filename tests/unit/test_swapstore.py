# SPDX-License-Identifier: Apache-2.0
"""The memory of a swap disk: which slots hold something, the file behind it, and where it lies in the guest."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.boot import e820
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine import aperture
from pyvmm.machine.memory import GIB, MIB, PAGE, Region, ram_layout
from pyvmm.machine.swapstore import SLOT, SwapStore

SIZE = 2 * MIB
SLOTS = SIZE // SLOT
SECTORS = SLOT // 512


@pytest.fixture
def store() -> Iterator[SwapStore]:
    made = SwapStore(SIZE)
    yield made
    made.close()


def written(store: SwapStore) -> set[int]:
    return {slot for slot in range(store.slots) if store.written(slot)}


# Which slots are written.

ranges = st.tuples(st.integers(0, SLOTS * SECTORS - 1), st.integers(0, 200))


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=20))
def test_slots_follow_the_disk(changes: list[tuple[bool, tuple[int, int]]]) -> None:
    """A write sets each slot that it touches, a discard clears each that it covers."""
    store = SwapStore(SIZE)
    model: set[int] = set()
    for is_write, (sector, count) in changes:
        if is_write:
            lib.swapstore_on_write(store._c, sector, count)
            model |= {s // SECTORS for s in range(sector, sector + count)} & set(range(SLOTS))
        else:
            lib.swapstore_on_discard(store._c, sector, count)
            model -= {
                slot
                for slot in range(SLOTS)
                if sector <= slot * SECTORS and (slot + 1) * SECTORS <= sector + count
            }
    assert written(store) == model
    store.close()


def test_a_slot_that_nobody_told_of_is_found_in_the_file(store: SwapStore) -> None:
    """As when the guest copies a page into the aperture."""
    os.pwrite(store.fd, b"x", 7 * SLOT + 100)
    assert written(store) == {7}
    # The file is not asked a second time.
    lib.swapstore_on_discard(store._c, 0, SLOTS * SECTORS)
    assert written(store) == {7}, "there is data still"


@pytest.mark.parametrize("slot", [SLOTS, SLOTS + 1, 1 << 52, (1 << 64) - 1])
def test_slots_that_are_not_there(store: SwapStore, slot: int) -> None:
    os.pwrite(store.fd, b"x" * SIZE, 0)
    assert store.written(SLOTS - 1)
    assert not store.written(slot)


def test_a_large_store_costs_nothing() -> None:
    store = SwapStore(512 * GIB)
    assert store.slots == 512 * GIB // PAGE
    assert store.bytes_used == 0
    lib.swapstore_on_write(store._c, 511 * GIB // 512, 8)
    assert store.written(511 * GIB // SLOT)
    assert not store.written(511 * GIB // SLOT - 1)
    os.pwrite(store.fd, b"x", 300 * GIB)
    assert store.written(300 * GIB // SLOT)
    assert store.bytes_used == PAGE
    store.close()
    store.close()


@pytest.mark.parametrize("size", [0, -SIZE, PAGE, SIZE + PAGE, 1 << 62])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match="swap store of"):
        SwapStore(size)


def test_nobody_can_cut_it_off(store: SwapStore) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(store.fd, 0)


# A file behind it.


def test_a_file_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    store = SwapStore(SIZE, path)
    assert path.stat().st_size == SIZE
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.bytes_used < SIZE
    os.pwrite(store.fd, b"x", 3 * SLOT)
    assert written(store) >= {3}
    store.close()
    assert not path.exists()


def test_an_empty_file_is_emptied_again(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    path.touch()
    store = SwapStore(SIZE, path)
    os.pwrite(store.fd, b"secret", 0)
    store.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [b"old", bytes(SIZE)])
def test_a_file_with_something_in_it_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "swap"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not overwritten"):
        SwapStore(SIZE, path)
    assert path.read_bytes() == content


def test_a_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    first = SwapStore(SIZE, path)
    with pytest.raises(HostError, match="in use") as raised:
        SwapStore(SIZE, path)
    assert raised.value.errno == errno.EBUSY
    assert path.stat().st_size == SIZE
    first.close()


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ConfigError, match="not a regular file"):
        SwapStore(SIZE, fifo)
    for path in (tmp_path, tmp_path / "absent" / "swap"):
        with pytest.raises(HostError):
            SwapStore(SIZE, path)


def test_more_than_the_file_system_has(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="its file system has") as raised:
        SwapStore(4 << 40, tmp_path / "swap")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


# Where it lies.


sizes = st.integers(1, 1 << 20).map(lambda n: n * aperture.ALIGNMENT)


@given(sizes, st.integers(256, 1 << 24).map(lambda n: n * PAGE))
def test_the_layout(size: int, memory: int) -> None:
    ram = ram_layout(memory)
    placed = aperture.place(ram, size, 52)
    end = ram[-1].gpa + ram[-1].size
    assert placed.start % GIB == 0
    assert 0 <= placed.start - max(end, 4 * GIB) < GIB
    assert placed.base % aperture.ALIGNMENT == placed.room % aperture.ALIGNMENT == 0
    assert placed.base - placed.start == placed.room
    # The room holds the page structures of everything, and no unit of 2 MiB more than that.
    needed = (size + placed.room) // PAGE * 64
    assert needed <= placed.room < needed + aperture.ALIGNMENT


def test_a_layout_in_numbers() -> None:
    placed = aperture.place(ram_layout(256 * MIB), 512 * MIB, 40)
    assert placed == aperture.Aperture(4 * GIB + 10 * MIB, 512 * MIB, 10 * MIB)
    placed = aperture.place(ram_layout(5 * GIB), 256 * GIB, 39)
    assert placed.start == 6 * GIB


def test_a_layout_that_does_not_fit() -> None:
    ram = ram_layout(256 * MIB)
    with pytest.raises(ConfigError, match="36 bits"):
        aperture.place(ram, 64 * GIB, 36)
    room = aperture.room_for(16 * GIB)
    aperture.place(ram, 16 * GIB, 36)
    for bits in (32, 33, 34):
        with pytest.raises(ConfigError):
            aperture.place(ram, 16 * GIB, bits)
    assert room == 262 * MIB


def test_the_memory_map() -> None:
    memory = ram_layout(256 * MIB)
    placed = aperture.place(memory, 64 * MIB, 40)
    windows = [Region(placed.start, placed.room), Region(placed.base, placed.size)]
    entry = e820.build(memory, windows)[-1]
    assert entry == e820.Entry(placed.start, placed.room + placed.size, e820.RESERVED)
