# SPDX-License-Identifier: Apache-2.0
"""A driver of virtio devices, written against the specification, and a machine without KVM to plug devices into.

Registers go through the same bus handler as a guest's accesses; rings and buffers are real guest memory.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from typing import Any, NamedTuple

from pyvmm._core import ffi, lib
from pyvmm.machine.memory import GuestMemory

MIB = 1 << 20
PATIENCE = 60.0  # seconds that something may take before the test is called hung

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
NEXT, WRITE, INDIRECT = 1, 2, 4

F_INDIRECT, F_EVENT_IDX, F_VERSION_1 = 28, 29, 32

# Registers (virtio 1.2, section 4.2.2).
MAGIC, VERSION, DEVICE_ID, VENDOR_ID = 0x0, 0x4, 0x8, 0xC
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x10, 0x14
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x20, 0x24
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY = 0x30, 0x34, 0x38, 0x44
QUEUE_NOTIFY, INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x50, 0x60, 0x64, 0x70
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x80, 0x90, 0xA0
SHM_SEL, SHM_LEN, SHM_BASE = 0xAC, 0xB0, 0xB8
CONFIG_GENERATION, CONFIG = 0xFC, 0x100

#: By which the thread sanitizer, where it is loaded, learns that a driver publishes what it wrote, and sees what the
#: device did: of what Python does to memory it knows the accesses alone.
ATOMIC_LOAD = getattr(ctypes.CDLL(None), "__tsan_atomic16_load", None)
ATOMIC_STORE = getattr(ctypes.CDLL(None), "__tsan_atomic16_store", None)
ACQUIRE, RELEASE = 2, 3


class FakeVm:
    """Memory slots, as KVM would have them."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, int, int]] = {}

    def set_memory_region(
        self, slot: int, gpa: int, size: int, hva: int, *, readonly: bool = False
    ) -> None:
        if size:
            assert readonly
            assert slot not in self.slots
            self.slots[slot] = (gpa, size, hva)
        else:
            assert self.slots.pop(slot)[0] == gpa


class FakeMachine:
    """What a device needs of a machine: memory, buses, eventfds."""

    def __init__(self, memory: int = MIB) -> None:
        self.memory = GuestMemory(memory)
        self.board = self
        self.vm = FakeVm()
        self.mmio = lib.bus_create()
        self.pio = lib.bus_create()
        self.irqs: dict[int, int] = {}
        self.kicks: dict[tuple[int, int | None], int] = {}
        self.devices: list[Any] = []
        self._count = 0

    def irqfd(self, gsi: int) -> int:
        self.irqs[gsi] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self.irqs[gsi]

    def ioeventfd(self, address: int, length: int, datamatch: int | None = None) -> int:
        assert length == 4
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.kicks[address, datamatch] = fd
        return fd

    def allocate_virtio(self) -> tuple[int, int]:
        self._count += 1
        return 0xD0000000 + (self._count - 1) * 0x1000, 15 + self._count

    def next_slot(self) -> int:
        return self._count

    def add_device(self, device: Any) -> None:
        self.devices.append(device)

    def close(self) -> None:
        for device in reversed(self.devices):
            device.close()
        for fd in (*self.irqs.values(), *self.kicks.values()):
            os.close(fd)
        assert self.vm.slots == {}
        lib.bus_destroy(self.mmio)
        lib.bus_destroy(self.pio)
        self.memory.close()

    def __enter__(self) -> FakeMachine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Descriptor(NamedTuple):
    addr: int
    length: int
    flags: int = 0
    next: int = 0

    def pack(self) -> bytes:
        return struct.pack("<QIHH", *self)


class Queue:
    """The driver's side of one split virtqueue (section 2.7); its rings lie at `at`."""

    def __init__(self, driver: Driver, index: int, size: int, at: int) -> None:
        self.driver, self.index, self.size = driver, index, size
        self.desc = at
        self.avail = at + 16 * size
        self.used = -(-(self.avail + 6 + 2 * size) // 4) * 4
        self.end = self.used + 6 + 8 * size
        self.idx = 0
        self.seen = 0
        self.memory = driver.machine.memory
        self.memory.write(at, bytes(self.end - at))

    def write_desc(self, index: int, descriptor: Descriptor) -> None:
        self.memory.write(self.desc + 16 * index, descriptor.pack())

    def chain(self, start: int, buffers: list[Descriptor]) -> None:
        """Descriptors start, start + 1, .. modulo the size, linked."""
        for number, buffer in enumerate(buffers):
            last = number == len(buffers) - 1
            follow = (start + number + 1) % self.size
            flags = buffer.flags | (0 if last else NEXT)
            linked = buffer._replace(flags=flags, next=0 if last else follow)
            self.write_desc((start + number) % self.size, linked)

    def offer(self, *heads: int) -> None:
        """Puts heads on the available ring and publishes them; no kick."""
        for head in heads:
            slot = self.avail + 4 + 2 * (self.idx % self.size)
            self.memory.write(slot, struct.pack("<H", head & 0xFFFF))
            self.idx = (self.idx + 1) & 0xFFFF
        self.set_avail_idx(self.idx)

    def set_avail_idx(self, idx: int) -> None:
        at = self.avail + 2
        if ATOMIC_STORE:
            ATOMIC_STORE(ctypes.c_void_p(self.memory.address + at), idx & 0xFFFF, RELEASE)
        else:
            self.memory.write(at, struct.pack("<H", idx & 0xFFFF))

    def set_avail_flags(self, flags: int) -> None:
        self.memory.write(self.avail, struct.pack("<H", flags))

    def set_used_event(self, idx: int) -> None:
        self.memory.write(self.avail + 4 + 2 * self.size, struct.pack("<H", idx & 0xFFFF))

    @property
    def used_flags(self) -> int:
        return int.from_bytes(self.memory.read(self.used, 2), "little")

    @property
    def used_idx(self) -> int:
        at = self.used + 2
        if ATOMIC_LOAD:
            return int(ATOMIC_LOAD(ctypes.c_void_p(self.memory.address + at), ACQUIRE)) & 0xFFFF
        return int.from_bytes(self.memory.read(at, 2), "little")

    @property
    def avail_event(self) -> int:
        at = self.used + 4 + 8 * self.size
        return int.from_bytes(self.memory.read(at, 2), "little")

    def kick(self) -> None:
        self.driver.write(QUEUE_NOTIFY, self.index)

    def collect(self) -> list[tuple[int, int]]:
        """(head, written) of everything completed since the last call."""
        done = []
        while self.seen != self.used_idx:
            at = self.used + 4 + 8 * (self.seen % self.size)
            done.append(struct.unpack("<II", self.memory.read(at, 8)))
            self.seen = (self.seen + 1) & 0xFFFF
        return done

    def wait(self, count: int = 1) -> list[tuple[int, int]]:
        """Waits until `count` chains were completed."""
        done: list[tuple[int, int]] = []
        deadline = time.monotonic() + PATIENCE
        while len(done) < count:
            done += self.collect()
            if len(done) < count:
                assert not self.driver.device.needs_reset, self.driver.device.stats()
                assert time.monotonic() < deadline, f"{len(done)} of {count}: the device hangs"
                time.sleep(0.0002)
        assert len(done) == count
        return done


class Driver:
    """Registers and life of one device."""

    def __init__(self, machine: FakeMachine, device: Any) -> None:
        self.machine, self.device = machine, device
        self.access = ffi.new("struct bus_access *")
        self.queues: list[Queue] = []
        self.features = 0

    def _access(self, offset: int, length: int, value: int, is_write: bool) -> int:
        access = self.access
        access.address, access.offset = self.device.base + offset, offset
        access.length, access.is_write = length, is_write
        access.value = value & 0xFFFFFFFFFFFFFFFF
        assert lib.virtio_mmio_access(self.device._c, access) == lib.BUS_DONE
        return int(access.value) & ((1 << 8 * length) - 1)

    def read(self, offset: int, length: int = 4) -> int:
        return self._access(offset, length, 0xAAAAAAAAAAAAAAAA, False)

    def write(self, offset: int, value: int, length: int = 4) -> None:
        self._access(offset, length, value, True)

    def config(self, offset: int, length: int) -> bytes:
        return bytes(self.read(CONFIG + offset + n, 1) for n in range(length))

    @property
    def status(self) -> int:
        return self.read(STATUS)

    def offered(self) -> int:
        value = 0
        for word in (0, 1):
            self.write(DEVICE_FEATURES_SEL, word)
            value |= self.read(DEVICE_FEATURES) << 32 * word
        return value

    def accept(self, features: int) -> None:
        for word in (0, 1):
            self.write(DRIVER_FEATURES_SEL, word)
            self.write(DRIVER_FEATURES, features >> 32 * word & 0xFFFFFFFF)

    def negotiate(self, features: int) -> bool:
        """Up to FEATURES_OK; whether the device agreed."""
        self.write(STATUS, 0)
        self.write(STATUS, ACKNOWLEDGE)
        self.write(STATUS, ACKNOWLEDGE | DRIVER)
        self.accept(features)
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.features = features
        return bool(self.status & FEATURES_OK)

    def set_address(self, register: int, value: int) -> None:
        self.write(register, value & 0xFFFFFFFF)
        self.write(register + 4, value >> 32)

    def configure(self, index: int, size: int, desc: int, avail: int, used: int) -> bool:
        """Makes a queue ready; whether the device took it."""
        self.write(QUEUE_SEL, index)
        self.write(QUEUE_NUM, size)
        self.set_address(QUEUE_DESC, desc)
        self.set_address(QUEUE_DRIVER, avail)
        self.set_address(QUEUE_DEVICE, used)
        self.write(QUEUE_READY, 1)
        return bool(self.read(QUEUE_READY))

    def start(self, features: int | None = None, size: int = 16, at: int = 0x1000) -> list[Queue]:
        """All of section 3.1.1, with rings of `size` from `at` on; all offered features by default."""
        assert self.negotiate(self.offered() if features is None else features)
        self.queues = []
        for index in range(lib.virtio_queue_count(self.device._c)):
            queue = Queue(self, index, size, at)
            assert self.configure(index, size, queue.desc, queue.avail, queue.used)
            self.queues.append(queue)
            at = -(-queue.end // 4096) * 4096
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return self.queues

    def interrupts(self) -> int:
        """Edges raised since the last call; does not wait."""
        try:
            return os.eventfd_read(self.machine.irqs[self.device.gsi])
        except BlockingIOError:
            return 0

    def wait_interrupt(self) -> int:
        """Waits for an interrupt, acknowledges it, and returns its reasons."""
        fd = self.machine.irqs[self.device.gsi]
        assert select.select([fd], [], [], PATIENCE)[0], "no interrupt came"
        os.eventfd_read(fd)
        reasons = self.read(INTERRUPT_STATUS)
        self.write(INTERRUPT_ACK, reasons)
        return reasons

    def settle(self) -> None:
        """Waits until the device's thread has seen the kicks so far."""
        lib.virtio_settle(self.device._c)
