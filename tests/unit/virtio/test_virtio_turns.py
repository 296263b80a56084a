# SPDX-License-Identifier: Apache-2.0
"""A driver that offers more than any host can do holds up neither its own reset nor a stop, a close, another queue."""

from __future__ import annotations

import itertools
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm._core import ffi, lib
from pyvmm.devices import virtio
from pyvmm.devices.tap import Tap
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.devices.virtio_net import VirtioNet
from pyvmm.devices.virtio_rng import VirtioRng
from pyvmm.errors import HostError
from tests.support.tree import ROOT
from tests.support.virtio_driver import (
    INDIRECT,
    MAGIC,
    MIB,
    NEXT,
    STATUS,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
    Queue,
)
from tests.support.waiting import until

IN, OUT, DISCARD, WRITE_ZEROES = 0, 1, 11, 13
PIECE = 2 * MIB
#: Of csrc/virtio/serve.c: what ends a turn. One system call or one chain more may have begun before.
TURN_BYTES, TURN_CHAINS = 8 * MIB, 256
HEADER, STATUS_BYTE, TABLE, RANGES, DATA = 0x20000, 0x20100, 0x30000, 0x38000, 32 * MIB
#: A line of C that begins a function, with its name, and one that allocates.
FUNCTION = re.compile(r"\w[\w *]*?(\w+)\(")
ALLOCATES = re.compile(
    r"\b(?:m|c|re)alloc\(|\b(?:aligned_alloc|reallocarray|posix_memalign|strdup)\("
)
#: How a function of the making is called.
MAKES = re.compile(r" (\w+_)?(create|init)$")
HUGE = 16 * MIB  # a buffer; some 250 of them are a chain of nearly 4 GiB


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    with FakeMachine(64 * MIB) as machine:
        yield machine


@pytest.fixture
def disk_fd() -> Iterator[int]:
    """Sparse: reading it is as fast as it gets."""
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 96 << 30)
    yield fd
    os.close(fd)


def indirect(machine: FakeMachine, queue: Queue, buffers: list[Descriptor]) -> None:
    """One table of them, which every chain of the queue is."""
    last = len(buffers) - 1
    linked = [
        b._replace(flags=b.flags | (NEXT if n < last else 0), next=n + 1)
        for n, b in enumerate(buffers)
    ]
    machine.memory.write(TABLE, b"".join(b.pack() for b in linked))
    for head in range(queue.size):
        queue.write_desc(head, Descriptor(TABLE, 16 * len(linked), INDIRECT))


def offer_all(queue: Queue) -> None:
    queue.offer(*range(queue.size))
    queue.kick()


def request(machine: FakeMachine, kind: int, data: list[Descriptor]) -> list[Descriptor]:
    machine.memory.write(HEADER, struct.pack("<IIQ", kind, 0, 0))
    return [Descriptor(HEADER, 16), *data, Descriptor(STATUS_BYTE, 1, WRITE)]


def disk_of(machine: FakeMachine, fd: int) -> tuple[Driver, Queue]:
    driver = Driver(machine, VirtioBlk(machine, fd))  # type: ignore[arg-type]
    (queue,) = driver.start(size=256)
    return driver, queue


class Writes:
    """Writes and discards that a disk tells of; the first may be held up, and its thread with it."""

    def __init__(self, device: VirtioBlk, *, held: bool = False) -> None:
        self.seen: list[tuple[int, int]] = []
        self.go_on = threading.Event()
        if not held:
            self.go_on.set()
        callback = ffi.callback("virtio_blk_observer", self._note)
        self._kept = callback
        device.observe(callback, callback)

    def _note(self, _opaque: Any, sector: int, count: int) -> None:
        self.seen.append((sector, count))
        self.go_on.wait(60)


class Turns(Writes):
    """Bytes that a disk tells of, by the turn in which it does."""

    def __init__(self, device: VirtioBlk) -> None:
        self.device = device
        self.bytes: dict[int, int] = {}
        super().__init__(device)

    def _note(self, _opaque: Any, sector: int, count: int) -> None:
        turn = self.device.stats()["kicks"]
        self.bytes[turn] = self.bytes.get(turn, 0) + count * 512
        self.seen.append((sector, count))


def terabyte_of_reads(machine: FakeMachine, fd: int) -> Driver:
    driver, queue = disk_of(machine, fd)
    buffers = [Descriptor(DATA, HUGE, WRITE)] * 250
    indirect(machine, queue, request(machine, IN, buffers))
    offer_all(queue)
    return driver


def terabyte_of_discards(machine: FakeMachine, fd: int) -> Driver:
    driver, queue = disk_of(machine, fd)
    ranges = b"".join(struct.pack("<QII", n << 22, 1 << 22, 0) for n in range(32))
    machine.memory.write(RANGES, ranges)
    indirect(machine, queue, request(machine, DISCARD, [Descriptor(RANGES, len(ranges))]))
    offer_all(queue)
    return driver


def terabyte_of_output(machine: FakeMachine, fd: int) -> Driver:
    null = os.open("/dev/null", os.O_WRONLY)
    driver = Driver(machine, VirtioConsole(machine, None, null))  # type: ignore[arg-type]
    os.close(null)
    _, queue = driver.start(size=256)
    indirect(machine, queue, [Descriptor(DATA, HUGE)] * 255)
    offer_all(queue)
    return driver


WORK = [terabyte_of_reads, terabyte_of_discards, terabyte_of_output]


@pytest.mark.parametrize("offer", WORK)
def test_a_reset_comes_before_the_work(
    machine: FakeMachine, disk_fd: int, offer: Callable[[FakeMachine, int], Driver]
) -> None:
    driver = offer(machine, disk_fd)
    until(lambda: driver.device.stats()["kicks"] > 2)  # several turns
    driver.write(STATUS, 0)
    assert driver.status == 0
    stats = driver.device.stats()
    assert stats["requests"] < 256
    assert not driver.device.violations


@pytest.mark.parametrize("offer", WORK)
def test_a_close_comes_before_the_work(
    machine: FakeMachine, disk_fd: int, offer: Callable[[FakeMachine, int], Driver]
) -> None:
    driver = offer(machine, disk_fd)
    until(lambda: driver.device.stats()["kicks"] > 1)
    driver.device.close()
    assert driver.device.kind not in threads()


def test_a_chain_of_many_turns_is_right(machine: FakeMachine, disk_fd: int) -> None:
    """A request of 24 MiB is three turns at least; it is told of piece by piece, and completed once."""
    size = 24 * MIB
    text = os.urandom(MIB) * (size // MIB)
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device)
    machine.memory.write(DATA, text)
    # Pieces of all sizes, none of them whole sectors.
    cuts = [DATA, DATA + 1, DATA + 5 * MIB + 17, DATA + 5 * MIB + 18, DATA + 20 * MIB, DATA + size]
    buffers = [Descriptor(a, b - a) for a, b in itertools.pairwise(cuts)]
    queue.chain(0, request(machine, OUT, buffers))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 1)]
    assert machine.memory.read(STATUS_BYTE, 1) == b"\0"
    assert os.pread(disk_fd, size, 0) == text
    assert driver.device.stats()["bytes_from_guest"] == size
    assert driver.device.stats()["kicks"] >= 3
    assert max(count for _, count in writes.seen) * 512 <= PIECE
    assert sum(count for _, count in writes.seen) * 512 == size

    machine.memory.write(DATA, bytes(size))
    queue.chain(0, request(machine, IN, [b._replace(flags=WRITE) for b in buffers]))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, size + 1)]
    assert machine.memory.read(DATA, size) == text


def test_a_disk_over_memory_does_it_by_pieces_too(machine: FakeMachine) -> None:
    over = mmap.mmap(-1, 32 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    driver = Driver(machine, VirtioBlk(machine, memoryview(over)))  # type: ignore[arg-type]
    (queue,) = driver.start(size=16)
    writes = Writes(driver.device)
    text = os.urandom(MIB) * 20
    machine.memory.write(DATA, text)
    queue.chain(0, request(machine, OUT, [Descriptor(DATA, len(text))]))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 1)]
    assert over[: len(text)] == text
    assert [count * 512 for _, count in writes.seen] == [PIECE] * 10


def test_a_discard_is_done_by_pieces(machine: FakeMachine, disk_fd: int) -> None:
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device)
    sectors = 1 << 19  # 256 MiB, from 4 KiB on
    machine.memory.write(RANGES, struct.pack("<QII", 8, sectors, 0))
    queue.chain(0, request(machine, DISCARD, [Descriptor(RANGES, 16)]))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 1)]
    assert writes.seen[0] == (8, (1 << 17) - 8)  # up to where the next one is aligned
    assert sum(count for _, count in writes.seen) == sectors


def test_a_reset_in_the_middle_of_a_chain(machine: FakeMachine, disk_fd: int) -> None:
    """The chain is forgotten, and the next driver's first request is its own."""
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device, held=True)
    queue.chain(0, request(machine, OUT, [Descriptor(DATA, 16 * MIB)]))
    queue.offer(0)
    queue.kick()
    until(lambda: writes.seen)
    resetting = threading.Thread(target=driver.write, args=(STATUS, 0))
    resetting.start()
    until(lambda: lib.virtio_status(driver.device._c))
    writes.go_on.set()
    resetting.join(60)
    assert not resetting.is_alive()
    assert driver.status == 0
    assert sum(count for _, count in writes.seen) * 512 < 16 * MIB
    (queue,) = driver.start(size=16)
    os.pwrite(disk_fd, b"first sector", 0)
    queue.chain(0, request(machine, IN, [Descriptor(DATA, 512, WRITE)]))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 513)]
    assert machine.memory.read(DATA, 12) == b"first sector"


@pytest.mark.parametrize("at", [STATUS, 0x44])
def test_a_vcpu_that_is_to_stop_does_not_wait(machine: FakeMachine, disk_fd: int, at: int) -> None:
    """For a thread that the host holds up; the device is closed once that is over."""
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device, held=True)
    queue.chain(0, request(machine, OUT, [Descriptor(DATA, 512)]))
    queue.offer(0)
    queue.kick()
    until(lambda: writes.seen)
    vcpu = ffi.new("struct vcpu *", {"heeds": lib.VCPU_HEED_ALL})
    driver.access.vcpu = vcpu
    threading.Timer(0.2, lambda: setattr(vcpu, "requests", lib.VCPU_REQUEST_STOP)).start()
    driver.write(at, 0)  # comes back
    driver.access.vcpu = ffi.NULL
    assert driver.status & 4
    writes.go_on.set()


@pytest.mark.parametrize("offset", [STATUS, MAGIC])
def test_a_vcpu_that_is_to_leave_does_not_wait_for_another(
    machine: FakeMachine, disk_fd: int, offset: int
) -> None:
    """For the one that has the registers, and waits for a thread that the host holds up."""
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device, held=True)
    queue.chain(0, request(machine, OUT, [Descriptor(DATA, 512)]))
    queue.offer(0)
    queue.kick()
    until(lambda: writes.seen)
    other = Driver(machine, driver.device)
    resetting = threading.Thread(target=other.write, args=(STATUS, 0))
    resetting.start()
    vcpu = ffi.new("struct vcpu *", {"heeds": lib.VCPU_HEED_URGENT})
    driver.access.vcpu = vcpu
    threading.Timer(0.2, lambda: setattr(vcpu, "requests", lib.VCPU_REQUEST_LATE)).start()
    driver.write(offset, 0)  # comes back
    assert resetting.is_alive()
    writes.go_on.set()
    resetting.join(60)
    driver.access.vcpu = ffi.NULL
    assert driver.status == 0


def test_a_close_that_failed_can_be_repeated(
    machine: FakeMachine, disk_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtio, "STOP_SECONDS", 0)
    driver, queue = disk_of(machine, disk_fd)
    writes = Writes(driver.device, held=True)
    queue.chain(0, request(machine, OUT, [Descriptor(DATA, 512)]))
    queue.offer(0)
    queue.kick()
    until(lambda: writes.seen)
    for _ in range(2):
        with pytest.raises(HostError, match=r"virtio-blk: .* close\(\) may be called again"):
            driver.device.close()
    assert driver.device.stats()["requests"] == 0  # it is all there still
    writes.go_on.set()
    monkeypatch.setattr(virtio, "STOP_SECONDS", 60)
    driver.device.close()
    assert "virtio-blk" not in threads()


def threads() -> list[str]:
    names = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/comm", encoding="ascii") as file:
            names.append(file.read().strip())
    return names


def test_what_is_drained_is_bounded(machine: FakeMachine) -> None:
    driver = terabyte_of_output(machine, -1)
    console: Any = driver.device
    assert not console.drain(3600)
    assert console.stats()["requests"] < 256


def test_an_entropy_source_with_all_its_chains_large(machine: FakeMachine) -> None:
    driver = Driver(machine, VirtioRng(machine))  # type: ignore[arg-type]
    (queue,) = driver.start(size=64)
    for head in range(64):
        queue.write_desc(head, Descriptor(DATA, HUGE, WRITE))
    offer_all(queue)
    done = queue.wait(64)
    assert {written for _, written in done} == {64 << 10}


def terabyte_of_writes(queue: Queue, machine: FakeMachine) -> None:
    indirect(machine, queue, request(machine, OUT, [Descriptor(DATA, HUGE)] * 250))


def gigabytes_of_zeroes(queue: Queue, machine: FakeMachine) -> None:
    machine.memory.write(RANGES, struct.pack("<QII", 8, 1 << 16, 0))
    indirect(machine, queue, request(machine, WRITE_ZEROES, [Descriptor(RANGES, 16)]))


@pytest.mark.parametrize("fill", [terabyte_of_writes, gigabytes_of_zeroes])
@pytest.mark.parametrize("over", ["file", "memory"])
def test_a_turn_of_a_disk_is_bounded(
    machine: FakeMachine, over: str, fill: Callable[[Queue, FakeMachine], None]
) -> None:
    """In bytes: not in requests, of which one may have nearly 4 GiB."""
    size = 5 << 30
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    disk = os.memfd_create("disk") if over == "file" else memoryview(mmap.mmap(-1, size, flags))
    if isinstance(disk, int):
        os.ftruncate(disk, size)
    driver = Driver(machine, VirtioBlk(machine, disk))  # type: ignore[arg-type]
    (queue,) = driver.start(size=256)
    turns = Turns(driver.device)
    fill(queue, machine)
    offer_all(queue)
    until(lambda: len(turns.bytes) > 5)
    driver.write(STATUS, 0)
    assert max(turns.bytes.values()) <= TURN_BYTES + PIECE
    if isinstance(disk, int):
        os.close(disk)


def flood_of_output(machine: FakeMachine) -> tuple[Driver, Queue, int, str]:
    driver = terabyte_of_output(machine, -1)
    return driver, driver.queues[1], 256 << 10, "bytes_from_guest"


def flood_of_entropy(machine: FakeMachine) -> tuple[Driver, Queue, int, str]:
    driver = Driver(machine, VirtioRng(machine))  # type: ignore[arg-type]
    (queue,) = driver.start(size=64)
    indirect(machine, queue, [Descriptor(DATA, HUGE, WRITE)] * 64)
    offer_all(queue)
    return driver, queue, 64 << 10, "bytes_to_guest"


def flood_of_frames(machine: FakeMachine) -> tuple[Driver, Queue, int, str]:
    try:
        tap = Tap(mtu=65521)
    except HostError as error:
        if os.geteuid():
            pytest.skip(f"only root may make a tap: {error}")
        raise
    driver = Driver(machine, VirtioNet(machine, tap))  # type: ignore[arg-type]
    machine.devices.insert(0, tap)
    _, queue = driver.start(size=256)
    machine.memory.write(DATA, bytes(12) + b"\xff" * 6 + b"\x02\0\0\0\0\1\x88\xb5")
    indirect(machine, queue, [Descriptor(DATA, 60_000)])
    offer_all(queue)
    return driver, queue, 1 << 16, "bytes_from_guest"


@pytest.mark.parametrize("flood", [flood_of_output, flood_of_entropy, flood_of_frames])
def test_a_turn_of_a_stream_is_bounded(
    machine: FakeMachine, flood: Callable[[FakeMachine], tuple[Driver, Queue, int, str]]
) -> None:
    """Its driver offers more as soon as something is taken, and ends no turn by running dry."""
    driver, queue, piece, name = flood(machine)
    stats: dict[str, int] = {}
    while stats.get("kicks", 0) < 20:
        queue.offer(*(head for head, _ in queue.collect()))
        queue.kick()
        moved = driver.device.stats()
        # Turns that were begun by now, the start's with them: no fewer than when it moved those.
        stats = driver.device.stats()
        turns = stats["kicks"] + 1
        assert moved[name] <= turns * (TURN_BYTES + piece)
        assert moved["requests"] <= turns * (TURN_CHAINS + 1)
    assert stats[name] > 0
    assert not stats["errors"]
    driver.write(STATUS, 0)
    assert driver.status == 0


def test_only_the_making_of_a_device_takes_memory() -> None:
    """Of the host: no request, however large, makes the VMM allocate anything."""
    takers = set()
    for part in ("virtio", "serial", "host"):
        for path in Path(ROOT, "csrc", part).glob("*.c"):
            function = ""
            for line in path.read_text().splitlines():
                function = found[1] if (found := FUNCTION.match(line)) else function
                if ALLOCATES.search(line) and not line.strip().startswith(("/*", "*")):
                    takers.add(f"{path.stem}: {function}")
    assert "rng: virtio_rng_create" in takers
    assert [taker for taker in takers if not MAKES.search(taker)] == []
