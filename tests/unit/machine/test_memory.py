# SPDX-License-Identifier: Apache-2.0
"""Guest memory: sizes, layout, views, and the address check that every device relies on."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, GuestMemoryError
from pyvmm.machine.memory import (
    GIB,
    HOLE_END,
    HOLE_START,
    MIB,
    PAGE,
    GuestMemory,
    Region,
    ram_layout,
)
from pyvmm.quantity import parse_size

TOP = 2**64 - 1
u64 = st.integers(0, TOP)


# Sizes in text.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("512", 512 * MIB),
        ("4G", 4 * GIB),
        ("1T", 1024 * GIB),
        ("64k", 64 << 10),
        (" 2GiB ", 2 * GIB),
        ("2GB", 2 * GIB),
        (4096, 4096),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "x", "-1M", "1.5G", "0x1000", "1P", "1 G", "²M", "1MM"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("thing", [True, None, 1.5, b"5M"])
def test_things_that_are_neither_number_nor_text(thing: Any) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(thing)


# Where RAM lies.


@given(st.integers(1, 1 << 40).map(lambda pages: pages * PAGE))
def test_layout_keeps_every_byte_and_the_hole(size: int) -> None:
    regions = ram_layout(size)
    assert sum(region.size for region in regions) == size
    assert regions[0].gpa == 0
    for region in regions:
        assert region.gpa + region.size <= HOLE_START or region.gpa >= HOLE_END
    assert len(regions) == (2 if size > HOLE_START else 1)


@pytest.mark.parametrize("size", [0, PAGE, MIB - PAGE, MIB + 1, -MIB])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match="memory of"):
        GuestMemory(size)


def test_unknown_huge_pages() -> None:
    with pytest.raises(ConfigError, match="choose from 2M, 1G"):
        GuestMemory(MIB, hugepages="4K")


def test_huge_pages_want_a_multiple() -> None:
    with pytest.raises(ConfigError, match="multiple of 2097152"):
        GuestMemory(3 * MIB, hugepages="2M")


# Views.


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(HOLE_START + MIB)  # both regions; the host gives only what is touched
    yield memory
    memory.close()


def test_both_sides_of_the_hole(memory: GuestMemory) -> None:
    assert memory.ram == (Region(0, HOLE_START), Region(HOLE_END, MIB))
    memory.write(HOLE_START - 4, b"low!")
    memory.write(HOLE_END, b"high")
    assert memory.read(HOLE_START - 4, 4) == b"low!"
    assert memory.read(HOLE_END, 4) == b"high"


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (HOLE_START - 4, 8),
        (HOLE_START, 1),
        (HOLE_END - 1, 1),
        (HOLE_END + MIB, 1),
        (HOLE_END + MIB - 1, 2),
        (0, -1),
        (-1, 1),
        (0, TOP),
        (TOP, 1),
        (TOP, TOP),
    ],
)
def test_outside(memory: GuestMemory, gpa: int, length: int) -> None:
    with pytest.raises(GuestMemoryError, match="not inside one region"):
        memory.view(gpa, length)
    assert issubclass(GuestMemoryError, ValueError)


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    with memory.view(HOLE_END + 16, 4) as view:
        view[:] = b"abcd"
        memory.write(HOLE_END + 18, b"X")
        assert bytes(view) == b"abXd"
        assert ffi.string(ffi.cast("char *", memory.slots()[1][2] + 16), 4) == b"abXd"


def test_closing_twice_and_with_a_view_held() -> None:
    memory = GuestMemory(MIB)
    view = memory.view(0, 4)
    memory.close()
    memory.close()
    view[:] = b"ours"
    assert bytes(view) == b"ours"


def test_nothing_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        GuestMemory(MIB).close()
    assert len(os.listdir("/proc/self/fd")) == before


# The check in C. No memory stands behind these addresses: only the arithmetic counts.

HVA = 0x10000000
pages = st.integers(1, 64)


class Map:
    """Regions in C, and the same as a list."""

    def __init__(self, wanted: list[tuple[int, int]], flags: int = 0) -> None:
        self.c = ffi.gc(lib.guest_memory_create(), lib.guest_memory_destroy)
        self.regions: list[tuple[int, int, int]] = []
        for number, (gpa, size) in enumerate(wanted):
            hva = HVA + number * 0x1000000
            if lib.guest_memory_add(self.c, gpa, size, ffi.cast("void *", hva), flags) == 0:
                self.regions.append((gpa, size, hva))

    def at(self, gpa: int, length: int) -> int:
        return int(ffi.cast("uintptr_t", lib.guest_memory_at(self.c, gpa, length)))

    def expected(self, gpa: int, length: int) -> int:
        for start, size, hva in self.regions:
            if start <= gpa < start + size and gpa + length <= start + size:
                return hva + gpa - start
        return 0


page_addresses = st.integers(0, 40).map(lambda n: n * PAGE) | st.integers(1, 40).map(
    lambda n: 2**64 - n * PAGE
)
layouts = st.lists(st.tuples(page_addresses, pages.map(lambda n: n * PAGE)), max_size=8)
near = st.integers(0, 120 * PAGE) | st.integers(TOP - 120 * PAGE, TOP) | u64


@given(layouts, st.lists(st.tuples(near, near), max_size=20))
def test_address_check_is_exact(
    layout: list[tuple[int, int]], questions: list[tuple[int, int]]
) -> None:
    memory = Map(layout)
    for gpa, length in questions:
        assert memory.at(gpa, length) == memory.expected(gpa, length)
    for start, size, hva in memory.regions:
        assert memory.at(start, size) == hva
        assert memory.at(start, size + 1) == 0
        assert memory.at(start + size - 1, 1) == hva + size - 1
        assert memory.at(start + 1, TOP) == 0  # the sum wraps to just below the start
        assert memory.at(start + 1, TOP - start) == 0


@given(layouts)
def test_regions_never_overlap(layout: list[tuple[int, int]]) -> None:
    taken = sorted((start, start + size) for start, size, _ in Map(layout).regions)
    for (_, end), (start, _) in itertools.pairwise(taken):
        assert end <= start


@pytest.mark.parametrize(
    ("gpa", "size", "error"),
    [
        (0, 0, errno.EINVAL),
        (1, PAGE, errno.EINVAL),
        (0, PAGE + 1, errno.EINVAL),
        (2**64 - PAGE, 2 * PAGE, errno.EINVAL),
        (4 * PAGE, PAGE, errno.EEXIST),
        (0, 64 * PAGE, errno.EEXIST),
    ],
)
def test_regions_that_are_refused(gpa: int, size: int, error: int) -> None:
    memory = Map([(2 * PAGE, 4 * PAGE)])
    assert lib.guest_memory_add(memory.c, gpa, size, ffi.NULL, 0) == -error


def test_too_many_regions() -> None:
    memory = Map([(n * PAGE, PAGE) for n in range(lib.GUEST_MEMORY_MAX_REGIONS)])
    after = lib.GUEST_MEMORY_MAX_REGIONS * PAGE
    assert lib.guest_memory_add(memory.c, after, PAGE, ffi.NULL, 0) == -errno.ENOSPC


def test_read_only_regions_are_not_writable() -> None:
    memory = Map([(0, PAGE)], lib.GUEST_MEMORY_READONLY)
    assert memory.at(16, 16) == HVA + 16
    assert lib.guest_memory_at_writable(memory.c, 16, 16) == ffi.NULL


def test_mapping_of_the_host(tmp_path: Any) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"x" * PAGE + b"y" * PAGE)
    with open(file, "rb") as opened:
        address = lib.host_map(opened.fileno(), PAGE, PAGE, 1)
        assert address != ffi.NULL
        assert ffi.buffer(address, 4)[:] == b"yyyy"
        assert lib.host_unmap(address, PAGE) == 0
    assert lib.host_map(-1, 0, 0, 0) == ffi.NULL
    assert ffi.errno == errno.EINVAL
