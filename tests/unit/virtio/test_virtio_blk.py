# SPDX-License-Identifier: Apache-2.0
"""The virtio disk, driven through its registers and rings."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm._core import ffi
from pyvmm.errors import StateError
from tests.support.virtio_disk import (
    DATA,
    DISCARD,
    F_FLUSH,
    F_RO,
    FLUSH,
    GET_ID,
    HEADER,
    IN,
    IOERR,
    OK,
    OUT,
    PAGE,
    SECTOR,
    STATUS_BYTE,
    UNSUPP,
    WRITE_ZEROES,
    Disk,
    clear,
    pattern,
)
from tests.support.virtio_driver import F_EVENT_IDX, F_INDIRECT, F_VERSION_1, WRITE, Descriptor


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


def test_closed_device(disk: Disk) -> None:
    disk.start()
    disk.device.close()
    disk.device.close()
    with pytest.raises(StateError):
        disk.device.stats()
