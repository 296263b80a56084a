# SPDX-License-Identifier: Apache-2.0
"""The memory of a swap disk: which slots hold something, the file behind it, and where it lies in the guest."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.boot import e820
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.errors import ConfigError, HostError, StateError
from pyvmm.machine.memory import GIB, MIB, PAGE, Region, ram_layout
from pyvmm.swap import aperture
from pyvmm.swap.file import MARK, MARK_BYTES
from pyvmm.swap.store import SLOT, SwapStore
from tests.support import waiting
from tests.support.virtio_driver import WRITE, Descriptor, Driver, FakeMachine

SIZE = 2 * MIB
SLOTS = SIZE // SLOT
SECTORS = SLOT // 512
MADV_PAGEOUT = 21  # <asm-generic/mman-common.h>


@pytest.fixture
def store() -> Iterator[SwapStore]:
    made = SwapStore(SIZE)
    yield made
    made.close()


@pytest.fixture
def small_pages(store: SwapStore) -> SwapStore:
    """Without huge pages it says each slot for itself."""
    assert store.memory is not None
    store.memory.map.madvise(mmap.MADV_NOHUGEPAGE)
    return store


def put(store: SwapStore, offset: int, data: bytes) -> None:
    """As the guest does it, which nobody sees."""
    disk = store.disk()
    if isinstance(disk, int):
        os.pwrite(disk, data, offset)
    else:
        disk[offset : offset + len(data)] = data


def give_back(store: SwapStore, offset: int, length: int) -> None:
    """As a discard does it."""
    assert store.memory is not None
    store.memory.map.madvise(mmap.MADV_DONTNEED, store.memory.skip + offset, length)


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


def test_a_slot_that_nobody_told_of_is_found(small_pages: SwapStore) -> None:
    """As when the guest copies a page into the aperture."""
    store = small_pages
    put(store, 7 * SLOT + 100, b"x")
    assert written(store) == {7}
    lib.swapstore_on_discard(store._c, 0, SLOTS * SECTORS)
    assert written(store) == {7}, "there is data still"
    # It is not asked a second time.
    give_back(store, 7 * SLOT, SLOT)
    assert written(store) == {7}
    lib.swapstore_on_discard(store._c, 0, SLOTS * SECTORS)
    assert written(store) == set()


def test_what_the_host_swapped_out_is_there(small_pages: SwapStore) -> None:
    """Without swap on the host, the page stays, and is found as any other."""
    store = small_pages
    put(store, 7 * SLOT, b"x")
    assert store.memory is not None
    store.memory.map.madvise(MADV_PAGEOUT, store.memory.skip, SIZE)
    assert written(store) == {7}
    assert store.bytes_used <= SLOT
    disk = store.disk()
    assert isinstance(disk, memoryview)
    assert disk[7 * SLOT] == ord("x")


def test_bytes_used(small_pages: SwapStore) -> None:
    store = small_pages
    assert store.bytes_used == 0
    for slot in (0, 3, 4, SLOTS - 1):
        put(store, slot * SLOT, b"x")
    assert store.bytes_used == 4 * SLOT
    give_back(store, 3 * SLOT, 2 * SLOT)
    assert store.bytes_used == 2 * SLOT
    # What is only read costs the host nothing.
    disk = store.disk()
    assert isinstance(disk, memoryview)
    assert disk[3 * SLOT : 6 * SLOT] == bytes(3 * SLOT)
    assert store.bytes_used == 2 * SLOT
    put(store, 0, b"x" * SIZE)
    assert store.bytes_used == SIZE
    give_back(store, 0, SIZE)
    assert bytes(disk) == bytes(SIZE)
    assert store.bytes_used == 0
    assert written(store) == set(range(SLOTS)), "the host's page of zeros is one"


def test_huge_pages(store: SwapStore) -> None:
    """Where the host has them, one is taken at the first byte; small pages otherwise."""
    put(store, 9 * SLOT, b"x")
    assert store.bytes_used in (SLOT, SIZE)
    assert 9 in written(store)
    give_back(store, 0, SIZE)
    disk = store.disk()
    assert isinstance(disk, memoryview)
    assert disk[5] == 0
    assert store.bytes_used == 0, "a huge page of zeros costs nothing either"


def test_it_lines_up_with_huge_pages(store: SwapStore) -> None:
    assert store.memory is not None
    assert store.memory.address % aperture.ALIGNMENT == 0
    disk = store.disk()
    assert isinstance(disk, memoryview)
    assert disk.nbytes == SIZE


def first_byte(address: int) -> bytes:
    """Reads what this process has there; nothing where nothing is mapped."""
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        try:
            return memory.read(1)
        except OSError:
            return b""


def test_a_child_does_not_have_it(store: SwapStore) -> None:
    put(store, 0, b"x")
    assert store.memory is not None
    address = store.memory.address
    assert first_byte(address) == b"x"
    pid = os.fork()
    if not pid:
        os._exit(first_byte(address) == b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.bytes_used >= SLOT


def test_memory_goes_at_the_end() -> None:
    store = SwapStore(SIZE)
    assert store.memory is not None
    mapping = weakref.ref(store.memory.map)
    view = store.disk()
    store.close()
    assert mapping() is not None
    del view
    assert mapping() is None
    with pytest.raises(StateError, match="the swap store is closed"):
        _ = store.bytes_used


@pytest.mark.parametrize("slot", [SLOTS, SLOTS + 1, 1 << 52, (1 << 64) - 1])
def test_slots_that_are_not_there(store: SwapStore, slot: int) -> None:
    put(store, 0, b"x" * SIZE)
    assert store.written(SLOTS - 1)
    assert not store.written(slot)


def test_a_large_store_costs_nothing() -> None:
    store = SwapStore(512 * GIB)
    assert store.slots == 512 * GIB // PAGE
    assert store.bytes_used == 0
    lib.swapstore_on_write(store._c, 511 * GIB // 512, 8)
    assert store.written(511 * GIB // SLOT)
    assert not store.written(511 * GIB // SLOT - 1)
    put(store, 300 * GIB, b"x")
    assert store.written(300 * GIB // SLOT)
    assert store.bytes_used in (PAGE, aperture.ALIGNMENT)
    store.close()
    store.close()


def follow(store: SwapStore, bytes_used: int) -> None:
    """It comes to know, by looks of bounded length."""
    waiting.until(lambda: lib.swapstore_follow(store._c, 0) == bytes_used)


@pytest.mark.parametrize("in_file", [False, True])
def test_what_it_takes_is_followed(tmp_path: Path, in_file: bool) -> None:
    """In the chunks that are used, beside them, far away, where the disk wrote, and where it was given back."""
    store = SwapStore(8 * GIB, tmp_path / "swap" if in_file else None)
    if store.memory is not None:
        store.memory.map.madvise(mmap.MADV_NOHUGEPAGE)
    assert lib.swapstore_follow(store._c, 1) == 0
    for offset in (0, 5 * MIB, 70 * MIB, 7 * GIB, 8 * GIB - SLOT):
        put(store, offset, b"x" * SLOT)
        lib.swapstore_on_write(store._c, offset // 512, 8)
        follow(store, store.bytes_used)
    assert lib.swapstore_follow(store._c, 1) == store.bytes_used >= 5 * SLOT
    if store.memory is not None:
        give_back(store, 70 * MIB, SLOT)
        give_back(store, 7 * GIB, SLOT)
        follow(store, 3 * SLOT)
    store.close()


@pytest.mark.parametrize("size", [0, -SIZE, PAGE, SIZE + PAGE, 1 << 62])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match="swap store of"):
        SwapStore(size)


def test_more_than_there_are_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.swap.store.LARGEST", 1 << 50)
    with pytest.raises(HostError, match=r"of a swap store: .*ask for less"):
        SwapStore(1 << 50)


# A file behind it.


def test_a_file_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    store = SwapStore(SIZE, path)
    assert path.stat().st_size == SIZE + MARK_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.bytes_used == 0
    put(store, 3 * SLOT, b"x")
    assert written(store) >= {3}
    store.close()
    assert not path.exists()


def test_an_empty_file_is_emptied_again(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    path.touch(0o600)
    store = SwapStore(SIZE, path)
    put(store, 0, b"secret")
    store.close()
    assert path.read_bytes() == b""


NEAR_MARKS = [
    bytes(SIZE) + MARK % (SIZE, b"made by pyvmm"),  # not to the end of its page
    bytes(SIZE) + (MARK % (2 * SIZE, b"made by pyvmm")).ljust(MARK_BYTES, b"\0"),
    bytes(SIZE) + (MARK % (SIZE, b"made by me")).ljust(MARK_BYTES, b"\0"),
]


@pytest.mark.parametrize("content", [b"old", bytes(SIZE), bytes(SIZE + MARK_BYTES), *NEAR_MARKS])
def test_a_file_with_something_in_it_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "swap"
    path.touch(0o600)
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
    assert path.stat().st_size == SIZE + MARK_BYTES
    first.close()


@pytest.mark.parametrize("was_there", [False, True])
def test_a_killed_vmm_leaves_a_file_that_the_next_takes(tmp_path: Path, was_there: bool) -> None:
    """Nothing of the old guest is in it; at the end it goes the way it came."""
    path = tmp_path / "swap"
    if was_there:
        path.touch(0o600)
    pid = os.fork()
    if not pid:
        put(SwapStore(SIZE, path), 5 * SLOT, b"secret of the old guest")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert b"secret" in path.read_bytes()
    store = SwapStore(2 * SIZE, path)
    assert store.bytes_used == 0
    assert written(store) == set()
    assert b"secret" not in path.read_bytes()
    store.close()
    assert path.exists() is was_there


def test_a_file_that_is_not_ours_alone(tmp_path: Path) -> None:
    """What others could read, change or have put there is refused, and left as it is."""
    target = tmp_path / "target"
    target.touch(0o600)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for name in ("link", "dangling"):
        with pytest.raises(ConfigError, match="symbolic link"):
            SwapStore(SIZE, tmp_path / name)
    for mode in (0o604, 0o640, 0o620, 0o666):
        target.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            SwapStore(SIZE, target)
    target.chmod(0o600)
    (tmp_path / "second").hardlink_to(target)
    with pytest.raises(ConfigError, match="hard link"):
        SwapStore(SIZE, target)
    assert target.stat().st_size == 0
    assert not (tmp_path / "absent").exists()


def test_a_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "swap"
    path.touch(0o600)
    if not os.geteuid():
        os.chown(path, 65534, 65534)  # root's own file is taken from everybody
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to user"):
        SwapStore(SIZE, path)


def test_its_blocks_are_set_aside(tmp_path: Path) -> None:
    """So that the file system cannot be full when the guest writes; a discard keeps them."""
    path = tmp_path / "swap"
    store = SwapStore(SIZE, path)
    assert store.file is not None
    if not store.file.allocated:
        # The folder of the tests is on tmpfs, where memory would be set aside.
        store.close()
        return
    with FakeMachine() as machine:
        driver = Driver(machine, VirtioBlk(machine, store.disk()))  # type: ignore[arg-type]
        store.watch(driver.device)
        (queue,) = driver.start()
        put(store, 3 * SLOT, b"x" * SLOT)
        assert SLOT <= store.bytes_used < SIZE
        machine.memory.write(0x20000, struct.pack("<IIQQII", 11, 0, 0, 0, SLOTS * SECTORS, 0))
        queue.chain(
            0, [Descriptor(0x20000, 16), Descriptor(0x20010, 16), Descriptor(0x21000, 1, WRITE)]
        )
        queue.offer(0)
        queue.kick()
        assert queue.wait() == [(0, 1)]
        assert machine.memory.read(0x21000, 1) == b"\0"
        assert store.bytes_used == 0
        assert os.pread(store.fd, SIZE, 0) == bytes(SIZE)
        assert path.stat().st_blocks * 512 >= SIZE
    store.close()


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
    # The room holds the page structures of everything, and no section more than that.
    total = size + placed.room
    assert total % aperture.SECTION == 0
    assert total // PAGE * 64 <= placed.room
    fewer = placed.room - aperture.SECTION
    assert fewer < 0 or fewer < (total - aperture.SECTION) // PAGE * 64


def test_a_layout_in_numbers() -> None:
    placed = aperture.place(ram_layout(256 * MIB), 512 * MIB, 40)
    assert placed == aperture.Aperture(4 * GIB + 128 * MIB, 512 * MIB, 128 * MIB)
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
    assert room == 384 * MIB


def test_the_memory_map() -> None:
    memory = ram_layout(256 * MIB)
    placed = aperture.place(memory, 64 * MIB, 40)
    windows = [Region(placed.start, placed.room), Region(placed.base, placed.size)]
    entry = e820.build(memory, windows)[-1]
    assert entry == e820.Entry(placed.start, placed.room + placed.size, e820.RESERVED)
