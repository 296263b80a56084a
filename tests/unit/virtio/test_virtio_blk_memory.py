# SPDX-License-Identifier: Apache-2.0
"""A virtio disk that is memory: the parts given back to the host, and the parts cleared."""

from __future__ import annotations

import ctypes

import pytest

from pyvmm._core import ffi, lib
from tests.support.virtio_disk import (
    DISCARD,
    IN,
    OK,
    OUT,
    PAGE,
    SECTOR,
    WRITE_ZEROES,
    Disk,
    clear,
    pattern,
)
from tests.support.virtio_driver import WRITE, Descriptor

LIBC = ctypes.CDLL(None)


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
