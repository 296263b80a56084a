# SPDX-License-Identifier: Apache-2.0
"""The virtio disk, driven through its registers and rings."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.errors import ConfigError, HostError, ImageError, StateError
from tests.support.virtio_driver import (
    F_EVENT_IDX,
    F_INDIRECT,
    F_VERSION_1,
    INDIRECT,
    MIB,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
    Queue,
)

SECTOR, PAGE = 512, 4096
LIBC = ctypes.CDLL(None)
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
F_RO, F_FLUSH, F_CONFIG_WCE = 5, 9, 11

HEADER, STATUS_BYTE, TABLE, DATA = 0x40000, 0x40100, 0x41000, 0x50000


class Disk:
    """A disk device over a memfd, or over memory; its driver, and one request at a time."""

    def __init__(self, sectors: int = 128, *, in_memory: bool = False, **options: Any) -> None:
        self.machine = FakeMachine()
        self.fd = os.memfd_create("disk")
        self.sectors = sectors
        os.ftruncate(self.fd, sectors * SECTOR)
        self.bytes = mmap.mmap(-1, sectors * SECTOR, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.in_memory = in_memory
        over = memoryview(self.bytes) if in_memory else self.fd
        self.device = VirtioBlk(self.machine, over, **options)  # type: ignore[arg-type]
        self.driver = Driver(self.machine, self.device)
        self.memory = self.machine.memory

    def start(self, features: int | None = None) -> Queue:
        (self.queue,) = self.driver.start(features)
        return self.queue

    def submit(self, buffers: list[Descriptor], indirect: bool = False) -> int:
        """One chain, to completion; the bytes written."""
        if indirect:
            linked = [
                b._replace(flags=b.flags | (n + 1 < len(buffers)), next=n + 1)
                for n, b in enumerate(buffers)
            ]
            self.memory.write(TABLE, b"".join(b.pack() for b in linked))
            buffers = [Descriptor(TABLE, 16 * len(buffers), INDIRECT)]
        self.queue.chain(0, buffers)
        self.queue.offer(0)
        self.queue.kick()
        ((head, written),) = self.queue.wait()
        assert head == 0
        return written

    def request(
        self, kind: int, sector: int, data: list[Descriptor], indirect: bool = False
    ) -> int:
        """The status of one request with the usual three-part shape."""
        self.memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        self.memory.write(STATUS_BYTE, b"\xff")
        ends = Descriptor(HEADER, 16), Descriptor(STATUS_BYTE, 1, WRITE)
        self.submit([ends[0], *data, ends[1]], indirect)
        return self.memory.read(STATUS_BYTE, 1)[0]

    def read(self, sector: int, length: int) -> bytes:
        assert self.request(IN, sector, [Descriptor(DATA, length, WRITE)]) == OK
        return self.memory.read(DATA, length)

    def write(self, sector: int, data: bytes) -> int:
        self.memory.write(DATA, data)
        return self.request(OUT, sector, [Descriptor(DATA, len(data))])

    def ranges(self, kind: int, *ranges: tuple[int, int, int]) -> int:
        data = b"".join(struct.pack("<QII", *r) for r in ranges)
        self.memory.write(DATA, data)
        return self.request(kind, 0, [Descriptor(DATA, len(data))])

    def content(self) -> bytes:
        if self.in_memory:
            return bytes(self.bytes)
        return os.pread(self.fd, self.sectors * SECTOR, 0)

    def close(self) -> None:
        self.machine.close()
        os.close(self.fd)
        self.bytes.close()


@pytest.fixture(params=["memfd", "memory"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = Disk(in_memory=request.param == "memory", serial="swap-0")
    yield disk
    disk.close()


@pytest.fixture
def disk_in_memory() -> Iterator[Disk]:
    disk = Disk(in_memory=True)
    yield disk
    disk.close()


def pattern(length: int, seed: int = 1) -> bytes:
    return bytes((n * 7 + (n >> 8) * 13 + seed) & 0xFF for n in range(length))


def test_identity(disk: Disk) -> None:
    assert disk.driver.read(0) == 0x74726976
    assert disk.driver.read(4) == 2
    assert disk.driver.read(8) == 2
    assert struct.unpack("<Q", disk.driver.config(0, 8))[0] == 128
    assert disk.device.sectors == 128
    assert disk.device.kind == "virtio-blk"


def test_reads_and_writes(disk: Disk) -> None:
    disk.start()
    data = pattern(4096)
    assert disk.write(3, data) == OK
    assert disk.content()[3 * SECTOR : 3 * SECTOR + 4096] == data
    assert disk.read(3, 4096) == data
    assert disk.read(4, 1024) == data[512:1536]
    stats = disk.device.stats()
    assert stats["requests"] == 3
    assert stats["bytes_from_guest"] == 4096
    assert stats["bytes_to_guest"] == 5120
    assert stats["errors"] == 0
    assert disk.device.violations == {}


def test_written_length(disk: Disk) -> None:
    disk.start()
    ends = [Descriptor(HEADER, 16), Descriptor(STATUS_BYTE, 1, WRITE)]
    disk.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
    assert disk.submit([ends[0], Descriptor(DATA, 1024, WRITE), ends[1]]) == 1025
    disk.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 127))  # the second sector is missing
    assert disk.submit([ends[0], Descriptor(DATA, 1024, WRITE), ends[1]]) == 0
    disk.memory.write(HEADER, struct.pack("<IIQ", FLUSH, 0, 0))
    assert disk.submit(ends) == 1


@pytest.mark.parametrize("sector", [128, 127, 1 << 55, (1 << 64) - 1, (1 << 64) - 2])
@pytest.mark.parametrize("kind", [IN, OUT])
def test_beyond_the_end(disk: Disk, kind: int, sector: int) -> None:
    disk.start()
    before = disk.content()
    data = [Descriptor(DATA, 1024, WRITE if kind == IN else 0)]
    assert disk.request(kind, sector, data) == IOERR
    assert disk.content() == before
    assert disk.device.stats()["errors"] == 1
    assert not disk.device.needs_reset


def test_ragged_length(disk: Disk) -> None:
    disk.start()
    assert disk.request(IN, 0, [Descriptor(DATA, 511, WRITE)]) == IOERR
    assert disk.request(OUT, 0, [Descriptor(DATA, 513)]) == IOERR


def test_file_cut_off_by_somebody() -> None:
    disk = Disk()
    disk.start()
    os.ftruncate(disk.fd, 10 * SECTOR)
    assert disk.request(IN, 9, [Descriptor(DATA, 1024, WRITE)]) == IOERR
    assert disk.request(IN, 100, [Descriptor(DATA, 1024, WRITE)]) == IOERR
    disk.close()


def test_serial_and_unknown(disk: Disk) -> None:
    disk.start()
    assert disk.request(GET_ID, 0, [Descriptor(DATA, 20, WRITE)]) == OK
    assert disk.memory.read(DATA, 20) == b"swap-0".ljust(20, b"\0")
    assert disk.request(GET_ID, 0, [Descriptor(DATA, 4, WRITE)]) == OK
    assert disk.request(77, 0, []) == UNSUPP
    assert disk.request(0x80000000, 0, []) == UNSUPP


@pytest.mark.parametrize("cut", [1, 5, 15])
def test_any_framing(disk: Disk, cut: int) -> None:
    """Section 2.7.4.1: a device must not rely on where buffers begin and end."""
    disk.start()
    data = pattern(1024)
    disk.memory.write(HEADER, struct.pack("<IIQ", OUT, 0, 2))
    disk.memory.write(HEADER + 16, data)
    pieces = [Descriptor(HEADER, cut), Descriptor(HEADER + cut, 1040 - cut)]
    disk.submit([*pieces, Descriptor(STATUS_BYTE, 1, WRITE)])
    assert disk.memory.read(STATUS_BYTE, 1) == b"\0"
    assert disk.content()[1024:2048] == data
    disk.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 2))
    disk.memory.write(DATA, bytes([9]) * 1026)
    disk.submit(
        [
            Descriptor(HEADER, 16),
            Descriptor(DATA, cut, WRITE),
            Descriptor(DATA + cut, 1025 - cut, WRITE),
        ]
    )
    assert disk.memory.read(DATA, 1026) == data + b"\0\x09"


def test_discard_and_zeroes(disk: Disk) -> None:
    disk.start()
    disk.write(0, pattern(64 * SECTOR))
    before = disk.content()
    assert disk.ranges(DISCARD, (8, 8, 0), (32, 8, 0)) == OK
    after = disk.content()
    assert after[: 8 * SECTOR] == before[: 8 * SECTOR]
    assert after[8 * SECTOR : 16 * SECTOR] == bytes(8 * SECTOR)  # a memfd's hole reads as zeroes
    assert after[16 * SECTOR : 32 * SECTOR] == before[16 * SECTOR : 32 * SECTOR]
    for sector, flags in ((16, 0), (50, 1)):
        assert disk.ranges(WRITE_ZEROES, (sector, 3, flags)) == OK
        assert disk.content()[sector * SECTOR : (sector + 3) * SECTOR] == bytes(3 * SECTOR)
    assert disk.content()[53 * SECTOR :] == before[53 * SECTOR :]


def test_discard_gives_memory_back() -> None:
    disk = Disk()
    disk.start()
    disk.write(0, pattern(64 * SECTOR))
    blocks = os.fstat(disk.fd).st_blocks
    assert disk.ranges(DISCARD, (0, 64, 0)) == OK
    assert os.fstat(disk.fd).st_blocks < blocks
    disk.close()


def address_of(disk: Disk) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(disk.bytes)))


def resident(disk: Disk) -> list[bool]:
    """Which pages of a disk in memory the host has given."""
    vector = ctypes.create_string_buffer(len(disk.bytes) // PAGE)
    length = ctypes.c_size_t(len(disk.bytes))
    assert LIBC.mincore(ctypes.c_void_p(address_of(disk)), length, vector) == 0
    return [bool(byte & 1) for byte in vector.raw]


def test_memory_is_given_back_by_whole_pages(disk_in_memory: Disk) -> None:
    disk = disk_in_memory
    disk.start()
    assert disk.write(0, pattern(128 * SECTOR)) == OK
    assert resident(disk) == [True] * 16
    before = disk.content()
    assert disk.ranges(DISCARD, (7, 18, 0), (31, 1, 0), (42, 5, 0)) == OK
    assert resident(disk) == [True, False, False, *[True] * 13]
    after = disk.content()
    assert after[8 * SECTOR : 24 * SECTOR] == bytes(16 * SECTOR)
    assert after[: 8 * SECTOR] == before[: 8 * SECTOR]
    assert after[24 * SECTOR :] == before[24 * SECTOR :]


def test_zeroes_in_memory(disk_in_memory: Disk) -> None:
    """With the unmap flag whole pages are given back; the rest is cleared all the same."""
    disk = disk_in_memory
    disk.start()
    for sector, count in ((3, 2), (7, 18), (40, 8), (55, 2), (96, 32)):
        for flags in (0, 1):
            disk.write(0, pattern(128 * SECTOR))
            model = bytearray(disk.content())
            assert disk.ranges(WRITE_ZEROES, (sector, count, flags)) == OK
            given_back = resident(disk).count(False)
            assert given_back == (
                flags and sum(p * 8 >= sector and p * 8 + 8 <= sector + count for p in range(16))
            )
            clear(model, sector, count)
            assert disk.content() == model


def test_locked_memory_is_cleared(disk_in_memory: Disk) -> None:
    disk = disk_in_memory
    disk.start()
    disk.write(0, pattern(128 * SECTOR))
    assert LIBC.mlock(ctypes.c_void_p(address_of(disk)), ctypes.c_size_t(PAGE)) == 0
    assert disk.ranges(DISCARD, (0, 16, 0)) == OK
    assert disk.content()[: 16 * SECTOR] == bytes(16 * SECTOR)
    assert disk.read(16, 512) == disk.content()[16 * SECTOR : 17 * SECTOR]


def test_a_disk_that_is_memory_of_the_guest(disk_in_memory: Disk) -> None:
    """A request may name the disk's own bytes, and ones that overlap."""
    disk = disk_in_memory
    disk.start()
    at, where = 1 << 32, ffi.cast("void *", address_of(disk))
    flags = lib.GUEST_MEMORY_APERTURE
    assert lib.guest_memory_add(disk.memory.pointer, at, len(disk.bytes), where, flags) == 0
    disk.write(0, pattern(64 * SECTOR))
    model = bytearray(disk.content())
    for source, sector, count in ((0, 64, 8), (64, 64, 8), (10, 8, 16), (8, 10, 16)):
        data = [Descriptor(at + source * SECTOR, count * SECTOR)]
        assert disk.request(OUT, sector, data) == OK
        moved = model[source * SECTOR : (source + count) * SECTOR]
        model[sector * SECTOR : (sector + count) * SECTOR] = moved
        assert disk.content() == model
        back = [Descriptor(at + source * SECTOR, count * SECTOR, WRITE)]
        assert disk.request(IN, sector, back) == OK
        moved = model[sector * SECTOR : (sector + count) * SECTOR]
        model[source * SECTOR : (source + count) * SECTOR] = moved
        assert disk.content() == model


def test_memory_is_kept_until_the_disk_is_closed(disk_in_memory: Disk) -> None:
    with pytest.raises(BufferError):
        disk_in_memory.bytes.close()
    disk_in_memory.device.close()
    disk_in_memory.bytes.close()


def test_bad_ranges(disk: Disk) -> None:
    disk.start()
    disk.write(0, pattern(64 * SECTOR))
    before = disk.content()
    assert disk.ranges(DISCARD, (0, 8, 0), (128, 1, 0)) == IOERR  # none is touched
    assert disk.ranges(DISCARD, ((1 << 64) - 1, 2, 0)) == IOERR
    assert disk.ranges(DISCARD, (0, 0xFFFFFFFF, 0)) == IOERR
    assert disk.ranges(DISCARD, (0, 8, 1)) == UNSUPP
    assert disk.ranges(WRITE_ZEROES, (0, 8, 2)) == UNSUPP
    assert disk.ranges(WRITE_ZEROES, (0, 8, 0), (8, 8, 0)) == IOERR  # more than announced
    assert disk.ranges(DISCARD, *[(0, 1, 0)] * 33) == IOERR
    assert disk.request(DISCARD, 0, [Descriptor(DATA, 15)]) == IOERR
    assert disk.request(DISCARD, 0, []) == IOERR
    assert disk.content() == before


@pytest.mark.parametrize("in_memory", [False, True])
def test_readonly(in_memory: bool) -> None:
    disk = Disk(in_memory=in_memory, readonly=True)
    assert disk.driver.offered() >> F_RO & 1
    disk.start()
    assert disk.write(0, pattern(512)) == IOERR
    assert disk.ranges(DISCARD, (0, 8, 0)) == IOERR
    assert disk.ranges(WRITE_ZEROES, (0, 8, 0)) == IOERR
    assert disk.content() == bytes(len(disk.content()))
    assert disk.request(FLUSH, 0, []) == OK
    disk.close()


def test_write_cache_switch(disk: Disk) -> None:
    wce = 32
    assert disk.driver.config(wce, 1) == b"\1"
    disk.driver.write(0x100 + wce, 0, 1)
    assert disk.driver.config(wce, 1) == b"\1"  # not negotiated yet
    disk.start()
    generation = disk.driver.read(0xFC)
    disk.driver.write(0x100 + wce, 0, 1)
    assert disk.driver.config(wce, 1) == b"\0"
    assert disk.driver.read(0xFC) != generation
    assert disk.write(0, pattern(512)) == OK
    disk.driver.write(0x100, 0, 8)  # the capacity is not the driver's
    assert struct.unpack("<Q", disk.driver.config(0, 8))[0] == 128
    disk.driver.write(0x70, 0)
    assert disk.driver.config(wce, 1) == b"\1"


def test_without_flush_writes_are_stable(disk: Disk) -> None:
    disk.start(1 << F_VERSION_1)
    assert disk.write(5, pattern(512)) == OK
    assert disk.content()[5 * SECTOR : 6 * SECTOR] == pattern(512)


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [Descriptor(HEADER, 16)],
        [Descriptor(HEADER, 15), Descriptor(STATUS_BYTE, 1, WRITE)],
        [Descriptor(STATUS_BYTE, 1, WRITE)],
        [Descriptor(HEADER, 16), Descriptor(STATUS_BYTE, 0, WRITE)],
    ],
)
def test_request_without_shape(disk: Disk, shape: list[Descriptor]) -> None:
    queue = disk.start()
    queue.chain(0, shape or [Descriptor(HEADER, 0)])
    queue.offer(0)
    queue.kick()
    disk.driver.settle()
    assert disk.device.needs_reset
    assert disk.device.violations == {"malformed request": 1}
    assert queue.used_idx == 0
    disk.start()
    assert not disk.device.needs_reset
    assert disk.write(0, pattern(512)) == OK


def test_batch_gets_few_interrupts(disk: Disk) -> None:
    queue = disk.start()
    disk.driver.interrupts()
    queue.set_used_event(4)  # tell me after the fifth
    disk.memory.write(HEADER, struct.pack("<IIQ", FLUSH, 0, 0))
    for head in range(0, 10, 2):
        queue.chain(head, [Descriptor(HEADER, 16), Descriptor(STATUS_BYTE, 1, WRITE)])
    queue.offer(0, 2, 4, 6, 8)
    queue.kick()
    queue.wait(5)
    assert disk.driver.wait_interrupt() == 1
    disk.driver.settle()
    assert disk.driver.interrupts() == 0
    assert disk.driver.read(0x60) == 0


def test_observer_runs_before_completion(disk: Disk) -> None:
    seen: list[tuple[str, int, int]] = []

    @ffi.callback("virtio_blk_observer")
    def on_write(_opaque: Any, sector: int, count: int) -> None:
        seen.append(("write", sector, count))

    @ffi.callback("virtio_blk_observer")
    def on_discard(_opaque: Any, sector: int, count: int) -> None:
        seen.append(("discard", sector, count))

    disk.device.observe(on_write, on_discard)
    disk.start()
    assert disk.write(8, pattern(4096)) == OK
    assert disk.ranges(DISCARD, (8, 8, 0)) == OK
    assert disk.ranges(WRITE_ZEROES, (16, 8, 1)) == OK
    assert disk.write(128, pattern(512)) == IOERR
    disk.device.observe()
    assert disk.write(0, pattern(512)) == OK
    assert seen == [("write", 8, 8), ("discard", 8, 8), ("write", 16, 8)]


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([IN, OUT, OUT, DISCARD, WRITE_ZEROES, FLUSH]),
        st.integers(0, 140),
        st.lists(st.integers(1, 3000), min_size=1, max_size=6),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def clear(model: bytearray, sector: int, count: int, unit: int = 1) -> bool:
    """Whole units are cleared."""
    if sector + count > 128:
        return False
    first, end = -(-sector // unit) * unit, (sector + count) // unit * unit
    sector, count = first, max(end - first, 0)
    model[sector * SECTOR : (sector + count) * SECTOR] = bytes(count * SECTOR)
    return True


def step(
    disk: Disk, model: bytearray, kind: int, sector: int, sizes: list[int], indirect: bool
) -> None:
    """One request on the device and on the model; both must agree."""
    if kind in (DISCARD, WRITE_ZEROES):
        unit = PAGE // SECTOR if kind == DISCARD and disk.in_memory else 1
        expected = clear(model, sector, sizes[0] % 16, unit)
        assert disk.ranges(kind, (sector, sizes[0] % 16, 0)) == (OK if expected else IOERR)
        return
    if kind == FLUSH:
        assert disk.request(FLUSH, sector, []) == OK
        return
    sizes = [*sizes, -sum(sizes) % SECTOR] if sum(sizes) % 2 else sizes
    total, at, pieces = sum(sizes), DATA + 5, []
    for size in sizes:
        pieces.append(Descriptor(at, size, WRITE if kind == IN else 0))
        at += size + 3
    valid = total % SECTOR == 0 and sector * SECTOR + total <= len(model)
    data = pattern(total, sector)
    done = 0
    for piece in pieces:
        source = data if kind == OUT else bytes([0xEE]) * total
        disk.memory.write(piece.addr, source[done : done + piece.length] + b"\xcc\xcc\xcc")
        done += piece.length
    assert disk.request(kind, sector, pieces, indirect) == (OK if valid else IOERR)
    assert all(disk.memory.read(p.addr + p.length, 3) == b"\xcc\xcc\xcc" for p in pieces)
    if valid and kind == OUT:
        model[sector * SECTOR : sector * SECTOR + total] = data
    elif valid:
        got = b"".join(disk.memory.read(p.addr, p.length) for p in pieces)
        assert got == model[sector * SECTOR : sector * SECTOR + total]


@settings(max_examples=60)
@given(REQUESTS, st.booleans(), st.booleans(), st.booleans())
def test_against_a_model(requests: Any, event_idx: bool, flush: bool, in_memory: bool) -> None:
    disk = Disk(in_memory=in_memory)
    try:
        features = 1 << F_VERSION_1 | 1 << F_INDIRECT | event_idx << F_EVENT_IDX | flush << F_FLUSH
        disk.start(features)
        model = bytearray(128 * SECTOR)
        for kind, sector, sizes, indirect in requests:
            step(disk, model, kind, sector, sizes, indirect)
        assert disk.content() == model
        assert disk.device.violations == {}
    finally:
        disk.close()


# What the host says about files that are no disks.


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    with FakeMachine() as machine:
        yield machine


def open_disk(machine: FakeMachine, *args: Any, **options: Any) -> VirtioBlk:
    return VirtioBlk(machine, *args, **options)  # type: ignore[arg-type]


def test_bad_files(machine: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file"):
        open_disk(machine, tmp_path / "missing")
    with pytest.raises(ImageError, match="directory"):
        open_disk(machine, tmp_path)
    with pytest.raises(ImageError, match="directory"):
        open_disk(machine, tmp_path, readonly=True)
    (tmp_path / "empty").touch()
    with pytest.raises(ImageError, match="empty"):
        open_disk(machine, tmp_path / "empty")
    (tmp_path / "odd").write_bytes(bytes(513))
    with pytest.raises(ImageError, match="multiple of 512"):
        open_disk(machine, tmp_path / "odd")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="neither"):
        open_disk(machine, tmp_path / "fifo")
    with pytest.raises(HostError, match="not an open descriptor"):
        open_disk(machine, 987654)
    for memory in (b"", b"x" * 513):
        with pytest.raises(ImageError, match="bytes of memory"):
            open_disk(machine, memoryview(memory), readonly=True)
    with pytest.raises(ConfigError, match="serial"):
        open_disk(machine, tmp_path / "odd", serial="x" * 21)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV\1\0\0\0", "vmdk"),
        (b"# Disk DescriptorFile\n", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
            "vdi",
        ),
    ],
)
def test_images_that_are_not_raw(
    machine: FakeMachine, tmp_path: Path, head: bytes, name: str
) -> None:
    """The guest would get the format's tables for sectors. Of a size that is no multiple of 512, too."""
    image = tmp_path / "disk"
    for size in (MIB, MIB + 100):
        image.write_bytes(head.ljust(size, b"\0"))
        with pytest.raises(ImageError, match=rf"is a {name} image.* -O raw {image} disk.raw"):
            open_disk(machine, image)
    image.write_bytes(head.ljust(MIB, b"\0"))
    assert open_disk(machine, image, format="raw").sectors == MIB // 512


def test_only_raw_disks(machine: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is only raw"):
        open_disk(machine, tmp_path / "disk", format="qcow2")


def test_descriptor_rights(machine: FakeMachine, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB))
    fd = os.open(image, os.O_RDONLY)
    with pytest.raises(HostError, match="reading only"):
        open_disk(machine, fd)
    assert open_disk(machine, fd, readonly=True).sectors == MIB // 512
    os.close(fd)
    fd = os.open(image, os.O_WRONLY)
    with pytest.raises(HostError, match="writing only"):
        open_disk(machine, fd, readonly=True)
    os.close(fd)


def test_locks(machine: FakeMachine, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB))
    writer = open_disk(machine, image)
    with pytest.raises(HostError, match=r"disk .*/disk is in use"):
        open_disk(machine, image)
    with pytest.raises(HostError, match="in use"):
        open_disk(machine, image, readonly=True)
    writer.close()
    readers = [open_disk(machine, image, readonly=True) for _ in range(2)]
    with pytest.raises(HostError, match="in use"):
        open_disk(machine, image)
    for reader in readers:
        reader.close()
    open_disk(machine, image)


def test_closed_device(disk: Disk) -> None:
    disk.start()
    disk.device.close()
    disk.device.close()
    with pytest.raises(StateError):
        disk.device.stats()
