# SPDX-License-Identifier: Apache-2.0
"""A virtio disk over a memfd or over memory, with its driver."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

from pyvmm.devices.virtio_blk import VirtioBlk
from tests.support.virtio_driver import INDIRECT, WRITE, Descriptor, Driver, FakeMachine, Queue

SECTOR, PAGE = 512, 4096
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


def pattern(length: int, seed: int = 1) -> bytes:
    return bytes((n * 7 + (n >> 8) * 13 + seed) & 0xFF for n in range(length))


def clear(model: bytearray, sector: int, count: int, unit: int = 1) -> bool:
    """Whole units are cleared."""
    if sector + count > 128:
        return False
    first, end = -(-sector // unit) * unit, (sector + count) // unit * unit
    sector, count = first, max(end - first, 0)
    model[sector * SECTOR : (sector + count) * SECTOR] = bytes(count * SECTOR)
    return True
