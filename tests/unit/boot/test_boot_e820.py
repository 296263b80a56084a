# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot import e820
from pyvmm.boot.e820 import RAM, RESERVED, Entry
from tests.support.images import GIB, MIB, Region


def test_small_machine() -> None:
    assert e820.build([Region(0, 256 * MIB)]) == (
        Entry(0, 0x9FC00, RAM),
        Entry(0x9FC00, 0x60400, RESERVED),
        Entry(MIB, 255 * MIB, RAM),
    )


def test_ram_on_both_sides_of_the_hole() -> None:
    entries = e820.build([Region(0, 3 * GIB), Region(4 * GIB, GIB)])
    assert entries[-2:] == (Entry(MIB, 3 * GIB - MIB, RAM), Entry(4 * GIB, GIB, RAM))


def test_reserved_inside_and_outside_ram() -> None:
    reserved = [Region(8 * GIB, GIB), Region(128 * MIB, MIB), Region(0, 0)]
    assert e820.build([Region(0, 256 * MIB)], reserved)[2:] == (
        Entry(MIB, 127 * MIB, RAM),
        Entry(128 * MIB, MIB, RESERVED),
        Entry(129 * MIB, 127 * MIB, RAM),
        Entry(8 * GIB, GIB, RESERVED),
    )


regions = st.lists(st.builds(Region, st.integers(0, 1 << 34), st.integers(0, 1 << 32)), max_size=10)


@given(st.integers(MIB, 3 * GIB), st.integers(0, 8 * GIB), regions)
def test_entries_are_disjoint_and_cover_all(low: int, high: int, reserved) -> None:
    ram = [Region(0, low)] + ([Region(4 * GIB, high)] if high else [])
    entries = e820.build(ram, reserved)
    for entry, following in pairwise(entries):
        assert entry.addr + entry.size <= following.addr
    assert all(entry.size > 0 for entry in entries)

    def kind(address: int) -> int | None:
        found = [e.type for e in entries if e.addr <= address < e.addr + e.size]
        assert len(found) <= 1
        return found[0] if found else None

    edges = {0, MIB, 0x9FC00}
    for region in (*ram, *reserved):
        edges |= {region.gpa, region.gpa + region.size}
    holes = [*reserved, Region(0x9FC00, MIB - 0x9FC00)]
    for address in (edge + delta for edge in edges for delta in (-1, 0)):
        if any(hole.gpa <= address < hole.gpa + hole.size for hole in holes):
            assert kind(address) == RESERVED
        elif any(region.gpa <= address < region.gpa + region.size for region in ram):
            assert kind(address) == RAM
        else:
            assert kind(address) is None
