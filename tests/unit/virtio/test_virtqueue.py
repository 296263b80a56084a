# SPDX-License-Identifier: Apache-2.0
"""Virtqueues under drivers that keep the rules and drivers that break them (virtio 1.2, section 2.7).

The entropy source serves as the device where every writable byte must be written, the disk where requests have a shape.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.devices.virtio_rng import VirtioRng
from tests.support.virtio_driver import (
    F_EVENT_IDX,
    F_INDIRECT,
    F_VERSION_1,
    INDIRECT,
    MIB,
    NEXT,
    QUEUE_READY,
    QUEUE_SEL,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
    Queue,
)

BASE = 1 << F_VERSION_1
ALL = BASE | 1 << F_INDIRECT | 1 << F_EVENT_IDX
BUFFER, TABLE = 0x40000, 0x30000
ROM = 0x40000000


class Rng:
    """An entropy source and its driver."""

    def __init__(self) -> None:
        self.machine = FakeMachine()
        self.rom = lib.host_map(-1, 4096, 0, 0)
        lib.guest_memory_add(
            self.machine.memory.pointer, ROM, 4096, self.rom, lib.GUEST_MEMORY_READONLY
        )
        self.device = VirtioRng(self.machine)  # type: ignore[arg-type]
        self.driver = Driver(self.machine, self.device)
        self.memory = self.machine.memory

    def start(self, features: int = ALL, size: int = 16) -> Queue:
        (self.queue,) = self.driver.start(features, size)
        return self.queue

    def serve(self, *heads: int) -> None:
        self.queue.offer(*heads)
        self.queue.kick()
        self.driver.settle()

    def violations(self) -> dict[str, int]:
        result: dict[str, int] = self.device.violations
        return result

    def close(self) -> None:
        self.machine.close()
        lib.host_unmap(self.rom, 4096)


@pytest.fixture
def rng() -> Iterator[Rng]:
    rng = Rng()
    yield rng
    rng.close()


def test_violation_names() -> None:
    names = [lib.virtqueue_violation_name(kind) for kind in range(1, lib.VIRTQUEUE_VIOLATIONS)]
    assert ffi.NULL not in names
    assert len({ffi.string(name) for name in names}) == lib.VIRTQUEUE_VIOLATIONS - 1
    assert len(ffi.new("struct virtio_stats *").violations) == lib.VIRTQUEUE_VIOLATIONS
    assert lib.virtqueue_violation_name(lib.VIRTQUEUE_VIOLATIONS) == ffi.NULL


# A driver that keeps the rules.


@pytest.mark.parametrize("size", [1, 2, 16, 64])
@pytest.mark.parametrize("features", [BASE, BASE | 1 << F_EVENT_IDX])
def test_wraps_around(rng: Rng, size: int, features: int) -> None:
    """Past 2**16 completions, all slots of the ring, and each buffer written."""
    queue = rng.start(features, size)
    for head in range(size):
        queue.write_desc(head, Descriptor(BUFFER + 32 * head, 32, WRITE))
    rounds = 70000 // size if size > 2 else 500
    for _ in range(rounds):
        rng.serve(*range(size))
        assert queue.collect() == [(head, 32) for head in range(size)]
    assert queue.used_idx == rounds * size & 0xFFFF
    assert rng.device.stats()["requests"] == rounds * size
    assert rng.memory.read(BUFFER, 32 * size) != bytes(32 * size)


def test_chain_as_long_as_the_queue(rng: Rng) -> None:
    queue = rng.start(size=16)
    queue.chain(5, [Descriptor(BUFFER + 8 * n, 8, WRITE) for n in range(16)])
    rng.serve(5)
    assert queue.collect() == [(5, 128)]


def test_indirect_table(rng: Rng) -> None:
    """Unaligned, in any order, behind direct buffers; its write flag means nothing."""
    queue = rng.start()
    entries = [
        Descriptor(BUFFER, 8, WRITE | NEXT, 3),
        Descriptor(0, 0xFFFFFFFF, 0xFFFF, 99),  # not part of the chain
        Descriptor(BUFFER + 16, 8, WRITE),
        Descriptor(BUFFER + 8, 8, WRITE | NEXT, 2),
    ]
    rng.memory.write(TABLE + 3, b"".join(entry.pack() for entry in entries))
    queue.write_desc(0, Descriptor(BUFFER + 24, 8, WRITE | NEXT, 7))
    queue.write_desc(7, Descriptor(TABLE + 3, 64, INDIRECT | WRITE))
    rng.serve(0)
    assert queue.collect() == [(0, 32)]
    assert rng.memory.read(BUFFER + 32, 8) == bytes(8)


def test_empty_buffers(rng: Rng) -> None:
    queue = rng.start()
    queue.chain(
        0, [Descriptor(BUFFER, 0), Descriptor(BUFFER, 0, WRITE), Descriptor(BUFFER, 9, WRITE)]
    )
    rng.serve(0)
    assert queue.collect() == [(0, 9)]


def test_request_limit_of_the_entropy_source(rng: Rng) -> None:
    queue = rng.start()
    queue.chain(0, [Descriptor(BUFFER, 0x18000, WRITE)])
    rng.serve(0)
    assert queue.collect() == [(0, 0x10000)]
    assert rng.memory.read(BUFFER + 0x10000, 0x8000) == bytes(0x8000)


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 0xFFFF)), min_size=1, max_size=40),
    st.integers(0, 70000),
)
def test_interrupts_at_event_index(batches: list[tuple[int, int]], before: int) -> None:
    """An interrupt exactly when the used index passes used_event, wherever both stand (section 2.7.7.2)."""
    rng = Rng()
    try:
        queue = rng.start(BASE | 1 << F_EVENT_IDX)
        queue.write_desc(0, Descriptor(BUFFER, 1, WRITE))
        skip_ahead(rng, before % 256)
        for count, ahead in batches:
            old = queue.used_idx
            event = (old + ahead % 24 - 4) & 0xFFFF
            queue.set_used_event(event)
            rng.driver.interrupts()
            rng.serve(*[0] * count)
            crossed = (event - old) & 0xFFFF < count
            assert bool(rng.driver.interrupts()) == crossed
            assert len(queue.collect()) == count
            assert queue.avail_event == queue.idx
    finally:
        rng.close()


def skip_ahead(rng: Rng, count: int) -> None:
    for start in range(0, count, 16):
        rng.serve(*[0] * min(16, count - start))
    rng.queue.collect()


def test_interrupts_by_flag(rng: Rng) -> None:
    queue = rng.start(BASE)
    queue.write_desc(0, Descriptor(BUFFER, 1, WRITE))
    rng.serve(0)
    assert rng.driver.interrupts() == 1
    assert rng.driver.read(0x60) == 1
    queue.set_avail_flags(1)
    rng.serve(0)
    assert rng.driver.interrupts() == 0
    assert queue.used_flags == 0  # kicks are wanted again
    rng.driver.write(0x64, 1)
    assert rng.driver.read(0x60) == 0


# Drivers that break one rule.


def one(descriptor: Descriptor, *more: Descriptor) -> Callable[[Rng], None]:
    def break_it(rng: Rng) -> None:
        rng.queue.chain(0, [descriptor, *more])
        rng.serve(0)

    return break_it


def raw(*descriptors: Descriptor, head: int = 0) -> Callable[[Rng], None]:
    def break_it(rng: Rng) -> None:
        for index, descriptor in enumerate(descriptors):
            rng.queue.write_desc(index, descriptor)
        rng.serve(head)

    return break_it


def indirect(*entries: Descriptor, length: int | None = None) -> Callable[[Rng], None]:
    def break_it(rng: Rng) -> None:
        data = b"".join(entry.pack() for entry in entries)
        rng.memory.write(TABLE, data)
        rng.queue.write_desc(
            0, Descriptor(TABLE, len(data) if length is None else length, INDIRECT)
        )
        rng.serve(0)

    return break_it


def jump(distance: int) -> Callable[[Rng], None]:
    def break_it(rng: Rng) -> None:
        rng.queue.set_avail_idx(rng.queue.idx + distance)
        rng.queue.kick()
        rng.driver.settle()

    return break_it


GOOD = Descriptor(BUFFER, 16, WRITE)
END = (1 << 64) - 1

BROKEN: list[tuple[str, Callable[[Rng], None]]] = [
    ("available index jumped", jump(17)),
    ("available index jumped", jump(0xFFFF)),
    ("bad descriptor index", raw(GOOD, head=16)),
    ("bad descriptor index", raw(GOOD, head=0xFFFF)),
    ("bad descriptor index", raw(Descriptor(BUFFER, 16, WRITE | NEXT, 16))),
    ("chain too long", raw(Descriptor(BUFFER, 16, WRITE | NEXT, 0))),
    (
        "chain too long",
        raw(Descriptor(BUFFER, 1, WRITE | NEXT, 1), Descriptor(BUFFER, 1, WRITE | NEXT, 0)),
    ),
    ("buffer outside memory", one(Descriptor(MIB, 1, WRITE))),
    ("buffer outside memory", one(Descriptor(MIB - 1, 2, WRITE))),
    ("buffer outside memory", one(Descriptor(0, 0xFFFFFFFF, WRITE))),
    ("buffer outside memory", one(Descriptor(END, 1, WRITE))),
    ("buffer outside memory", one(Descriptor(END - 15, 32, WRITE))),
    ("buffer outside memory", one(Descriptor(1 << 63, 16))),
    ("buffer outside memory", one(GOOD, Descriptor(0xD0000000, 16, WRITE))),
    ("buffer outside memory", one(Descriptor(ROM - 1, 2))),
    ("writable buffer in read-only memory", one(Descriptor(ROM, 16, WRITE))),
    ("readable buffer after writable", one(GOOD, Descriptor(BUFFER, 16))),
    ("bad indirect table", indirect(GOOD, length=0)),
    ("bad indirect table", indirect(GOOD, length=8)),
    ("bad indirect table", indirect(GOOD, length=17)),
    ("bad indirect table", indirect(GOOD, length=0xFFFFFFF0)),
    ("bad indirect table", raw(Descriptor(END - 15, 32, INDIRECT))),
    ("bad indirect table", raw(Descriptor(TABLE, 16, INDIRECT | NEXT, 1), GOOD)),
    ("nested indirect table", indirect(Descriptor(TABLE, 16, INDIRECT))),
    ("bad descriptor index", indirect(Descriptor(BUFFER, 1, WRITE | NEXT, 1))),
    ("chain too long", indirect(Descriptor(BUFFER, 1, WRITE | NEXT, 0))),
    # As many entries as fit into a chain of this device, and one more.
    (
        "chain too long",
        indirect(*[Descriptor(BUFFER, 1, WRITE | NEXT, n + 1) for n in range(64)], GOOD),
    ),
]


@pytest.mark.parametrize(("kind", "break_it"), BROKEN)
def test_broken_rule(rng: Rng, kind: str, break_it: Callable[[Rng], None]) -> None:
    queue = rng.start()
    queue.write_desc(9, Descriptor(BUFFER + 0x1000, 8, WRITE))
    rng.serve(9)
    assert queue.collect() == [(9, 8)]
    rng.driver.interrupts()
    break_it(rng)
    assert rng.device.needs_reset
    assert rng.driver.status & 64
    assert rng.violations() == {kind: 1}
    assert rng.driver.wait_interrupt() & 2
    # It stays still,
    queue.chain(0, [GOOD])
    queue.set_avail_idx(2)
    queue.kick()
    rng.driver.settle()
    assert queue.collect() == []
    assert rng.violations() == {kind: 1}
    # until a reset makes it whole again.
    queue = rng.start()
    assert not rng.device.needs_reset
    queue.write_desc(0, GOOD)
    rng.serve(0)
    assert queue.collect() == [(0, 16)]


def test_indirect_without_the_feature(rng: Rng) -> None:
    rng.start(BASE)
    indirect(GOOD)(rng)
    assert rng.violations() == {"bad indirect table": 1}


def test_four_gigabytes_in_one_chain() -> None:
    """The sum matters, not what exists: the same mebibyte 4096 times, through an indirect table."""
    rng = Rng()
    try:
        queue = rng.start(size=64)
        # 64 buffers of 64 MiB each, of a mapping made for it.
        size = 64 * MIB
        hva = lib.host_map(-1, size, 0, 0)
        assert lib.guest_memory_add(rng.memory.pointer, 0x80000000, size, hva, 0) == 0
        queue.chain(0, [Descriptor(0x80000000, size, WRITE)] * 64)
        rng.serve(0)
        assert rng.violations() == {"chain of 4 GiB or more": 1}
        queue = rng.start(size=64)
        queue.chain(0, [Descriptor(0x80000000, size, WRITE)] * 63)
        rng.serve(0)
        assert queue.collect() == [(0, 65536)]
    finally:
        rng.close()
        lib.host_unmap(hva, size)


RINGS = {
    "aligned": (0x1000, 0x2000, 0x3000),
    "descriptors unaligned": (0x1008, 0x2000, 0x3000),
    "available unaligned": (0x1000, 0x2001, 0x3000),
    "used unaligned": (0x1000, 0x2000, 0x3002),
    "descriptors outside": (MIB - 16, 0x2000, 0x3000),
    "available outside": (0x1000, MIB - 2, 0x3000),
    "used outside": (0x1000, 0x2000, MIB - 4),
    "used wraps": (0x1000, 0x2000, END - 3),
    "descriptors wrap": (END - 15, 0x2000, 0x3000),
    "used read-only": (0x1000, 0x2000, ROM),
    "descriptors nowhere": (0xD0000000, 0x2000, 0x3000),
}


@pytest.mark.parametrize("name", RINGS)
def test_ring_addresses(rng: Rng, name: str) -> None:
    assert rng.driver.negotiate(ALL)
    good = name == "aligned"
    assert rng.driver.configure(0, 16, *RINGS[name]) == good
    assert rng.device.needs_reset != good
    assert rng.violations() == ({} if good else {"bad ring address": 1})
    assert rng.driver.interrupts() == 0  # not before DRIVER_OK


@pytest.mark.parametrize("size", [0, 3, 65, 128, 1 << 16, 0xFFFFFFFF])
def test_queue_sizes(rng: Rng, size: int) -> None:
    assert rng.driver.negotiate(ALL)
    assert not rng.driver.configure(0, size, 0x1000, 0x2000, 0x3000)
    assert rng.violations() == {"bad queue size": 1}
    rng.driver.write(QUEUE_SEL, 0)
    rng.driver.write(QUEUE_READY, 1)
    assert rng.violations() == {"bad queue size": 1}  # ignored until a reset


# Drivers that are noise. Whatever happens: no crash, no hang, either served or NEEDS_RESET, and no byte of memory
# changes outside of the buffers that were called writable and the used ring.

ADDRESSES = st.one_of(
    st.integers(0x38000, 0x48000),
    st.sampled_from([0, TABLE, BUFFER, 0x1000, MIB - 16, MIB - 1, MIB, ROM, END, END - 8, 1 << 63]),
    st.integers(0, END),
)
LENGTHS = st.one_of(
    st.integers(0, 600), st.sampled_from([16, 32, 512, 0x10000, 0xFFFFFFFF, 0x80000000])
)
FLAGS = st.one_of(st.sampled_from([0, NEXT, WRITE, NEXT | WRITE, INDIRECT]), st.integers(0, 0xFFFF))
NOISE = st.builds(Descriptor, ADDRESSES, LENGTHS, FLAGS, st.integers(0, 20))
TABLES = st.lists(NOISE, min_size=1, max_size=16)
HEADS = st.lists(st.integers(0, 18), min_size=1, max_size=16)


def may_change(table: list[Descriptor], queue: Queue) -> list[tuple[int, int]]:
    """Ranges that the device may write to, start and end."""
    ranges = [(queue.used, queue.end)]
    ranges += [(d.addr, d.addr + d.length) for d in table if d.flags & WRITE]
    return ranges


def masked(memory: bytes, ranges: list[tuple[int, int]]) -> bytes:
    copy = bytearray(memory)
    for start, end in ranges:
        end = min(end, len(copy))
        if start < end:
            copy[start:end] = bytes(end - start)
    return bytes(copy)


def make_rng(machine: FakeMachine) -> Any:
    return VirtioRng(machine)  # type: ignore[arg-type]


def make_disk(machine: FakeMachine) -> Any:
    fd = os.memfd_create("disk")
    os.truncate(fd, 64 * 512)
    os.pwrite(fd, b"\x5a" * 64 * 512, 0)
    try:
        return VirtioBlk(machine, fd)  # type: ignore[arg-type]
    finally:
        os.close(fd)


def make_console(machine: FakeMachine) -> Any:
    source = os.memfd_create("input")
    os.write(source, b"\xa5" * 100000)
    os.lseek(source, 0, os.SEEK_SET)
    sink = os.open("/dev/null", os.O_WRONLY)
    try:
        return VirtioConsole(machine, source, sink)  # type: ignore[arg-type]
    finally:
        os.close(source)
        os.close(sink)


@pytest.mark.parametrize("make", [make_rng, make_disk, make_console])
@given(
    table=TABLES,
    indirect_table=TABLES,
    heads=HEADS,
    jump_by=st.one_of(st.just(0), st.just(0), st.integers(-40, 40)),
    features=st.sampled_from([BASE, ALL]),
    index=st.integers(0, 1),
    header=st.tuples(st.sampled_from([0, 1, 4, 8, 11, 13, 99]), st.integers(0, 70)),
)
def test_noise(
    make: Callable[[FakeMachine], Any],
    table: list[Descriptor],
    indirect_table: list[Descriptor],
    heads: list[int],
    jump_by: int,
    features: int,
    index: int,
    header: tuple[int, int],
) -> None:
    with FakeMachine() as machine:
        device = make(machine)
        driver = Driver(machine, device)
        machine.memory.write(0, b"\xc3" * MIB)
        queues = driver.start(features, size=16)
        queue = queues[index % len(queues)]
        machine.memory.write(BUFFER, struct.pack("<IIQ", header[0], 0, header[1]) * 8)
        machine.memory.write(TABLE, b"".join(d.pack() for d in indirect_table))
        for number, descriptor in enumerate(table):
            queue.write_desc(number, descriptor)
        driver.settle()  # the queue was looked at once when the device started
        for head in heads:
            slot = queue.avail + 4 + 2 * (queue.idx % 16)
            machine.memory.write(slot, struct.pack("<H", head))
            queue.idx += 1
        queue.idx += jump_by
        queue.set_avail_idx(queue.idx)
        before = machine.memory.read(0, MIB)
        queue.kick()
        driver.settle()
        after = machine.memory.read(0, MIB)
        ranges = [r for q in queues for r in may_change([], q)]
        # Descriptor tables may be anywhere, in rings and buffers too: any 16 bytes there could be one.
        if not any(d.flags & INDIRECT and d.addr != TABLE for d in table):
            ranges += may_change([*table, *indirect_table], queue)
            # A device may overwrite a table and then use what it wrote.
            if not overwrites_tables(ranges, queue):
                assert masked(before, ranges) == masked(after, ranges)
        broken = sum(device.violations.values())
        assert broken == device.needs_reset
        if not broken and device.kind != "virtio-console":
            assert queue.used_idx == queue.idx & 0xFFFF
        # Not one violation has stopped the device for good.
        (queue, *_) = driver.start(ALL, size=16)
        assert not device.needs_reset


def overwrites_tables(ranges: list[tuple[int, int]], queue: Queue) -> bool:
    tables = ((queue.desc, queue.used), (TABLE, TABLE + 256))
    mine = [r for r in ranges if r[0] != queue.used]
    return any(start < end2 and start2 < end for start, end in mine for start2, end2 in tables)
