# SPDX-License-Identifier: Apache-2.0
"""The registers of the MMIO transport, version 2 (virtio 1.2, section 4.2.2)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.devices.virtio_rng import VirtioRng
from pyvmm.errors import ConfigError, StateError
from tests.support.virtio_driver import (
    ACKNOWLEDGE,
    CONFIG_GENERATION,
    DEVICE_FEATURES,
    DEVICE_FEATURES_SEL,
    DEVICE_ID,
    DRIVER,
    DRIVER_FEATURES,
    DRIVER_FEATURES_SEL,
    DRIVER_OK,
    F_EVENT_IDX,
    F_INDIRECT,
    F_VERSION_1,
    FAILED,
    FEATURES_OK,
    INTERRUPT_ACK,
    INTERRUPT_STATUS,
    MAGIC,
    QUEUE_DESC,
    QUEUE_NOTIFY,
    QUEUE_NUM,
    QUEUE_NUM_MAX,
    QUEUE_READY,
    QUEUE_SEL,
    SHM_BASE,
    SHM_LEN,
    SHM_SEL,
    STATUS,
    VENDOR_ID,
    VERSION,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
    Queue,
)

BUFFER = 0x40000


@pytest.fixture
def driver() -> Iterator[Driver]:
    with FakeMachine() as machine:
        yield Driver(machine, VirtioRng(machine))  # type: ignore[arg-type]


def test_identification(driver: Driver) -> None:
    assert driver.read(MAGIC).to_bytes(4, "little") == b"virt"
    assert driver.read(VERSION) == 2
    assert driver.read(DEVICE_ID) == 4
    assert driver.read(VENDOR_ID).to_bytes(4, "little") == b"PVMM"
    for register in (MAGIC, VERSION, DEVICE_ID, VENDOR_ID):
        driver.write(register, 0)
    assert driver.read(VERSION) == 2


def test_through_the_bus(driver: Driver) -> None:
    """The device sits where it says, and only there."""
    assert (driver.device.base, driver.device.gsi) == (0xD0000000, 16)
    access = ffi.new("struct bus_access *")
    error = lib.bus_add(
        driver.machine.mmio, 0xD00001FF, 1, ffi.addressof(lib, "virtio_mmio_access"), access
    )
    assert error < 0
    driver.device.close()
    error = lib.bus_add(
        driver.machine.mmio, 0xD00001FF, 1, ffi.addressof(lib, "virtio_mmio_access"), access
    )
    assert error == 0


def test_addresses_taken() -> None:
    with FakeMachine() as machine:
        handler = ffi.addressof(lib, "virtio_mmio_access")
        assert lib.bus_add(machine.mmio, 0xD0000100, 4, handler, ffi.NULL) == 0
        with pytest.raises(ConfigError, match="virtio-rng at 0xd0000000"):
            VirtioRng(machine)  # type: ignore[arg-type]
        assert machine.devices == []


def test_features(driver: Driver) -> None:
    assert driver.offered() == 1 << F_VERSION_1 | 1 << F_INDIRECT | 1 << F_EVENT_IDX
    driver.write(DEVICE_FEATURES_SEL, 2)
    assert driver.read(DEVICE_FEATURES) == 0
    driver.write(DEVICE_FEATURES_SEL, 0xFFFFFFFF)
    assert driver.read(DEVICE_FEATURES) == 0
    assert driver.negotiate(driver.offered())
    assert driver.negotiate(1 << F_VERSION_1)


@pytest.mark.parametrize("features", [0, 1 << F_INDIRECT, 1 << F_VERSION_1 | 1, 1 << 63 | 1 << 32])
def test_refused_features(driver: Driver, features: int) -> None:
    assert not driver.negotiate(features)
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER
    # It may try again.
    driver.accept(1 << F_VERSION_1)
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK


def test_features_are_final(driver: Driver) -> None:
    assert driver.negotiate(1 << F_VERSION_1)
    driver.accept(0xFFFFFFFFFFFFFFFF)
    (queue,) = driver.start(1 << F_VERSION_1)
    driver.accept(0xFFFFFFFFFFFFFFFF)
    queue.write_desc(0, Descriptor(BUFFER, 16, 4))
    queue.offer(0)
    queue.kick()
    driver.settle()
    assert driver.device.violations == {"bad indirect table": 1}


def test_order_of_status(driver: Driver) -> None:
    driver.accept(1 << F_VERSION_1)
    driver.write(STATUS, FEATURES_OK)
    assert driver.status == 0
    driver.write(STATUS, DRIVER_OK)
    assert driver.status == 0
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | 0xFFFFFF70)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK
    driver.write(STATUS, ACKNOWLEDGE)  # bits do not go away
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK
    driver.write(STATUS, DRIVER_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    driver.write(STATUS, 0)
    assert driver.status == 0


def test_giving_up(driver: Driver) -> None:
    (queue,) = driver.start()
    driver.write(STATUS, FAILED)
    assert driver.status & FAILED
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    driver.settle()
    assert queue.collect() == []
    (queue,) = driver.start()
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 16)]


def test_queue_registers(driver: Driver) -> None:
    assert driver.read(QUEUE_NUM_MAX) == 64
    for index in (1, 4, 0xFFFFFFFF):
        driver.write(QUEUE_SEL, index)
        assert driver.read(QUEUE_NUM_MAX) == 0
        driver.write(QUEUE_NUM, 16)
        driver.write(QUEUE_READY, 1)
        assert driver.read(QUEUE_READY) == 0
    driver.write(QUEUE_SEL, 0)
    driver.write(QUEUE_READY, 1)  # before FEATURES_OK
    assert driver.read(QUEUE_READY) == 0
    assert not driver.device.needs_reset


def test_live_queue_stays_as_it_is(driver: Driver) -> None:
    (queue,) = driver.start()
    driver.write(QUEUE_NUM, 3)
    driver.set_address(QUEUE_DESC, 0xFFFFFFFFFFFFFFFF)
    driver.write(QUEUE_READY, 1)
    driver.write(QUEUE_READY, 2)
    assert driver.read(QUEUE_READY) == 1
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 16)]


def test_queue_taken_away_and_given_back(driver: Driver) -> None:
    (queue,) = driver.start()
    driver.write(QUEUE_READY, 0)
    assert driver.read(QUEUE_READY) == 0
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    driver.settle()
    assert queue.collect() == []
    driver.write(QUEUE_READY, 1)  # it was filled meanwhile, and nobody kicks
    assert queue.wait() == [(0, 16)]


def test_filled_before_driver_ok(driver: Driver) -> None:
    assert driver.negotiate(driver.offered())
    queue = Queue(driver, 0, 16, 0x1000)
    assert driver.configure(0, 16, queue.desc, queue.avail, queue.used)
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    driver.settle()
    assert queue.collect() == []
    driver.write(STATUS, DRIVER_OK)
    assert queue.wait() == [(0, 16)]


def test_kicks_by_eventfd(driver: Driver) -> None:
    """As KVM does it, without the notification register."""
    (queue,) = driver.start()
    for _ in range(3):
        queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
        queue.offer(0)
        os.eventfd_write(driver.machine.kicks[driver.device.base + QUEUE_NOTIFY, 0], 1)
        assert queue.wait() == [(0, 16)]
    for index in (1, 0xFFFFFFFF):
        driver.write(QUEUE_NOTIFY, index)  # nobody there


def test_interrupt_registers(driver: Driver) -> None:
    (queue,) = driver.start()
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    queue.wait()
    driver.settle()
    assert driver.read(INTERRUPT_STATUS) == 1
    driver.write(INTERRUPT_ACK, 2)
    assert driver.read(INTERRUPT_STATUS) == 1
    driver.write(INTERRUPT_ACK, 0xFFFFFFFF)
    assert driver.read(INTERRUPT_STATUS) == 0
    queue.set_used_event(queue.used_idx)
    queue.offer(0)
    queue.kick()
    queue.wait()
    driver.settle()
    driver.write(STATUS, 0)
    assert driver.read(INTERRUPT_STATUS) == 0


def test_no_shared_memory(driver: Driver) -> None:
    for region in (0, 1, 255):
        driver.write(SHM_SEL, region)
        for register in (SHM_LEN, SHM_LEN + 4, SHM_BASE, SHM_BASE + 4):
            assert driver.read(register) == 0xFFFFFFFF


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_odd_widths(driver: Driver, length: int) -> None:
    assert driver.read(MAGIC, length) == 0
    driver.write(STATUS, ACKNOWLEDGE, length)
    assert driver.status == 0


def test_reserved_registers(driver: Driver) -> None:
    for offset in (
        0x18,
        0x28,
        0x3C,
        0x40,
        0x4C,
        0x54,
        0x68,
        0x74,
        0x88,
        0xC0,
        0xD0,
        0x71,
        0x200,
        0x1000,
    ):
        driver.write(offset, 0xFFFFFFFF)
        assert driver.read(offset) == 0
    assert driver.status == 0


def test_config_space_of_any_width() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 0x123456 * 512)
    with FakeMachine() as machine:
        driver = Driver(machine, VirtioBlk(machine, fd))  # type: ignore[arg-type]
        assert driver.read(0x100, 8) == 0x123456
        assert driver.read(0x100, 4) == 0x123456
        assert driver.read(0x101, 2) == 0x1234
        assert driver.read(0x102, 1) == 0x12
        assert driver.read(0x100, 3) == 0x123456
        assert driver.read(0x1FF, 8) == 0
        assert driver.read(0x100 + 57, 8) == 0  # the rest of it, and then nothing
        driver.write(0x100, 0, 8)
        driver.write(0x1FC, 0xFFFFFFFF, 8)
        assert driver.read(0x100, 8) == 0x123456
        assert driver.read(CONFIG_GENERATION) == 0
    os.close(fd)


def test_close(driver: Driver) -> None:
    driver.start()
    driver.device.close()
    driver.device.close()
    with pytest.raises(StateError, match="virtio-rng"):
        _ = driver.device.needs_reset


def test_reset_while_busy(driver: Driver) -> None:
    """After a reset came back, the device leaves the rings alone."""
    for _ in range(200):
        (queue,) = driver.start(1 << F_VERSION_1, size=64)
        queue.write_desc(0, Descriptor(BUFFER, 4096, WRITE))
        queue.offer(*[0] * 64)
        queue.kick()
        driver.write(STATUS, 0)
        idx = queue.used_idx
        driver.machine.memory.write(BUFFER, bytes(4096))
        driver.settle()
        assert queue.used_idx == idx
        assert driver.machine.memory.read(BUFFER, 4096) == bytes(4096)


def test_two_vcpus_at_the_registers(driver: Driver) -> None:
    """One resets and starts over while the other pokes everything: no hang, and sane in the end."""
    stop = threading.Event()

    def poke() -> None:
        other = Driver(driver.machine, driver.device)
        number = 0
        while not stop.is_set():
            number += 1
            other.write(QUEUE_NOTIFY, 0)
            other.write(INTERRUPT_ACK, 3)
            other.write(QUEUE_SEL, number % 3)
            other.write(QUEUE_READY, number % 2)
            other.read(STATUS)

    thread = threading.Thread(target=poke)
    thread.start()
    for _ in range(100):
        driver.write(STATUS, 0)
        driver.write(STATUS, ACKNOWLEDGE | DRIVER)
        driver.accept(1 << F_VERSION_1)
        driver.write(STATUS, FEATURES_OK)
        driver.configure(0, 16, 0x1000, 0x2000, 0x3000)
        driver.write(STATUS, DRIVER_OK)
    stop.set()
    thread.join()
    (queue,) = driver.start()
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    assert queue.wait() == [(0, 16)]


ACCESSES = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(
                [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x70, 0x80, 0x90, 0xA0]
            ),
            st.integers(0, 0x210),
        ),
        st.sampled_from([4, 4, 4, 4, 1, 2, 8]),
        st.one_of(
            st.sampled_from([0, 1, 2, 3, 7, 11, 15, 16, 0x1000, 0x2000]), st.integers(0, 1 << 64)
        ),
        st.booleans(),
    ),
    max_size=60,
)


@given(ACCESSES)
def test_noise_on_the_registers(accesses: list[Any]) -> None:
    with FakeMachine() as machine:
        driver = Driver(machine, VirtioRng(machine))  # type: ignore[arg-type]
        for offset, length, value, is_write in accesses:
            driver._access(offset, length, value, is_write)
        (queue,) = driver.start()
        queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
        queue.offer(0)
        queue.kick()
        assert queue.wait() == [(0, 16)]


def test_mapped_page_shows_what_reads_return(driver: Driver) -> None:
    """A guest reads the page without an exit, so it must be up to date whenever a write has returned."""
    ((gpa, size, hva),) = driver.machine.vm.slots.values()
    assert (gpa, size) == (driver.device.base, 4096)
    page = memoryview(ffi.buffer(ffi.cast("uint8_t *", hva), size))

    def check() -> None:
        for offset in range(0, 0x100, 4):
            assert int.from_bytes(page[offset : offset + 4], "little") == driver.read(offset)
        assert bytes(page[0x200:]) == bytes(0xE00)

    check()
    for offset, value in ((0x14, 1), (0x14, 0), (0x30, 1), (0x30, 0), (STATUS, 1), (STATUS, 3)):
        driver.write(offset, value)
        check()
    (queue,) = driver.start()
    assert page[QUEUE_READY] == 1
    check()
    queue.write_desc(0, Descriptor(BUFFER, 16, WRITE))
    queue.offer(0)
    queue.kick()
    queue.wait()
    driver.settle()
    assert page[INTERRUPT_STATUS] == 1
    queue.set_avail_idx(100)
    queue.kick()
    driver.settle()
    assert page[STATUS] & 64
    check()
    driver.write(STATUS, 0)
    assert page[STATUS] == page[INTERRUPT_STATUS] == page[QUEUE_READY] == 0
    check()
    assert (driver.device.base + INTERRUPT_ACK, 1) in driver.machine.kicks
    driver.device.close()
    assert driver.machine.vm.slots == {}


def test_driver_features_words(driver: Driver) -> None:
    """The upper selectors change nothing."""
    driver.write(STATUS, ACKNOWLEDGE | DRIVER)
    driver.accept(1 << F_VERSION_1)
    driver.write(DRIVER_FEATURES_SEL, 2)
    driver.write(DRIVER_FEATURES, 0xFFFFFFFF)
    driver.write(STATUS, FEATURES_OK)
    assert driver.status & FEATURES_OK
