# SPDX-License-Identifier: Apache-2.0
"""The devices of kvm-unit-tests, called as hooks are: every access that a guest can make."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.testdev import CMDLINE, CPUS, MEMORY_SIZE, RAM_SIZE, FwCfg, TestDevice
from tests.support.images import MIB, FakeMemory


class FakeVM:
    """Keeps the hooks by the place where they begin."""

    def __init__(self) -> None:
        self.hooks: dict[int, Callable[[Any], int]] = {}
        self.memory = FakeMemory(MIB)
        self.vcpus = [None, None]
        self.cmdline = "a b"
        self.lines: list[tuple[int, bool]] = []
        self.ends = False
        self.devices: list[TestDevice] = []
        self.machine = SimpleNamespace(
            vm=SimpleNamespace(irq_line=lambda *a: self.lines.append(a)),
            add_device=self.devices.append,
        )

    def on_port(self, port: int, count: int = 1) -> Any:
        return lambda handler: self.hooks.setdefault(port, handler)

    def on_mmio(self, address: int, length: int) -> Any:
        return lambda handler: self.hooks.setdefault(address, handler)

    def end_at_status(self) -> None:
        self.ends = True

    def access(self, place: int, offset: int, size: int, value: int | None = None) -> int:
        what = SimpleNamespace(offset=offset, size=size, is_write=value is not None, value=value)
        return self.hooks[place](what)


@pytest.fixture
def vm() -> FakeVM:
    made = FakeVM()
    device = TestDevice(made)
    assert made.ends
    assert made.devices == [device]
    return made


def item(vm: FakeVM, key: int, size: int) -> bytes:
    vm.access(0x510, 0, 2, key)
    return bytes(vm.access(0x510, 1, 1) for _ in range(size))


def test_what_fw_cfg_tells(vm: FakeVM) -> None:
    assert item(vm, 0, 6) == b"QEMU\0\0"
    assert item(vm, CPUS, 2) == struct.pack("<H", 2)
    assert item(vm, RAM_SIZE, 8) == struct.pack("<Q", MIB)
    assert item(vm, CMDLINE, 5) == b"a b\0\0"
    assert item(vm, 0x11, 8) == bytes(8)
    assert item(vm, 0xFFFF, 8) == bytes(8)
    vm.access(0x510, 1, 1, 0xFF)  # items are read only
    assert item(vm, CPUS | 0x4000, 2) == struct.pack("<H", 2)


def test_fw_cfg_alone() -> None:
    vm = FakeVM()
    FwCfg(vm, {7: b"seven"})  # type: ignore[arg-type]
    assert item(vm, 7, 7) == b"seven\0\0"


def test_interrupt_lines(vm: FakeVM) -> None:
    for value in (1, 0, 0xFF):
        vm.access(0x2000, 14, 1, value)
    vm.access(0x2000, 3, 1)
    assert vm.lines == [(14, True), (14, False), (14, True)]


def test_pages_that_are_none(vm: FakeVM) -> None:
    for address in (0xFFFFFFFF, MIB, 2 * MIB):
        assert vm.access(0xE4, 0, 4, address) == 0
    assert vm.access(0xE4, 0, 4) == 0


accesses = st.tuples(
    st.sampled_from([0xE0, 0xE8, 0x510, 0xFF000000]),
    st.sampled_from([0, 1, 2, 3, MEMORY_SIZE - 4, MEMORY_SIZE - 1]),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.none() | st.integers(0, 2**64 - 1),
)


@given(st.lists(accesses, max_size=20))
def test_any_access(steps: list[tuple[int, int, int, int | None]]) -> None:
    """None of them raises, and what is kept does not grow."""
    vm = FakeVM()
    device = TestDevice(vm)  # type: ignore[arg-type]
    for place, offset, size, value in steps:
        at = offset if place == 0xFF000000 else offset % 4
        assert vm.access(place, at, size, value) >= 0
        if value is not None and place == 0xFF000000:
            length = min(size, MEMORY_SIZE - at)
            expected = value & (1 << 8 * length) - 1
            assert vm.access(place, at, length) == expected
    assert len(device.memory) == MEMORY_SIZE
    assert device.kept < 1 << 32
