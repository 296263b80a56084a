# SPDX-License-Identifier: Apache-2.0
"""The bus, compared with a model that keeps a plain list of ranges."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import c_library

TOP = 2**64 - 1
MORE = """
struct bus_range { uint64_t base; uint64_t length; bus_handler *handler; void *opaque; uint32_t hook; };
const struct bus_range *bus_find(const struct bus *bus, uint64_t address);
"""


class Range(NamedTuple):
    base: int
    length: int
    hook: int

    def overlaps(self, other: Range) -> bool:
        return self.base < other.base + other.length and other.base < self.base + self.length


class Bus:
    """A C bus."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi, self.lib = ffi, lib
        self.c = ffi.gc(lib.bus_create(), lib.bus_destroy)

    def add(self, base: int, length: int, hook: int = 0) -> int:
        return int(self.lib.bus_add_hook(self.c, base, length, hook))

    def remove(self, base: int) -> int:
        return int(self.lib.bus_remove(self.c, base))

    def find(self, address: int) -> Range | None:
        found = self.lib.bus_find(self.c, address)
        return None if found == self.ffi.NULL else Range(found.base, found.length, found.hook)


class Model:
    """What a bus should do."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []

    def add(self, base: int, length: int, hook: int) -> int:
        new = Range(base, length, hook)
        if not length or base + length > TOP + 1:
            return -errno.EINVAL
        if any(new.overlaps(old) for old in self.ranges):
            return -errno.EEXIST
        self.ranges.append(new)
        return 0

    def remove(self, base: int) -> int:
        kept = [one for one in self.ranges if one.base != base]
        found = len(kept) < len(self.ranges)
        self.ranges = kept
        return 0 if found else -errno.ENOENT

    def find(self, address: int) -> Range | None:
        return next((r for r in self.ranges if r.base <= address < r.base + r.length), None)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return c_library.load(tmp_path_factory.mktemp("bus"), ("machine/bus",), MORE)


# Few addresses, so that ranges meet; and those where sums overflow.
addresses = st.integers(0, 40) | st.integers(TOP - 20, TOP) | st.integers(0, TOP)
lengths = st.integers(0, 12) | st.integers(TOP - 20, TOP) | st.integers(0, TOP)
steps = st.lists(
    st.tuples(st.just("add"), addresses, lengths)
    | st.tuples(st.just("remove"), addresses, st.just(0))
    | st.tuples(st.just("find"), addresses, st.just(0)),
    max_size=40,
)


@settings(max_examples=400)
@given(steps)
def test_like_the_model(library: tuple[Any, Any], steps: list[tuple[str, int, int]]) -> None:
    bus, model = Bus(*library), Model()
    edges = {0, TOP}
    for number, (what, address, length) in enumerate(steps):
        edges |= {address, max(address - 1, 0), min(address + length, TOP)}
        if what == "add":
            assert bus.add(address, length, number) == model.add(address, length, number)
        elif what == "remove":
            assert bus.remove(address) == model.remove(address)
        assert bus.find(address) == model.find(address)
    for address in edges:
        assert bus.find(address) == model.find(address)


def test_the_whole_space_but_one_address(library: tuple[Any, Any]) -> None:
    bus = Bus(*library)
    assert bus.add(0, TOP) == 0
    assert bus.add(TOP, 1, 7) == 0
    assert bus.find(TOP) == Range(TOP, 1, 7)
    assert bus.add(5, 1) == -errno.EEXIST


def test_ranges_that_touch_do_not_overlap(library: tuple[Any, Any]) -> None:
    bus = Bus(*library)
    assert [bus.add(16, 16, 1), bus.add(0, 16, 2), bus.add(32, 16, 3)] == [0, 0, 0]
    hooks = [bus.find(address) for address in (15, 16, 31, 32, 47, 48)]
    assert [found and found.hook for found in hooks] == [2, 1, 1, 3, 3, None]


def test_a_found_range_outlives_its_removal(library: tuple[Any, Any]) -> None:
    """A vCPU may still be in the old table while another thread changes the bus."""
    bus = Bus(*library)
    bus.add(8, 8, 1)
    found = bus.lib.bus_find(bus.c, 8)
    bus.remove(8)
    bus.add(8, 4, 2)
    assert (found.base, found.length, found.hook) == (8, 8, 1)
