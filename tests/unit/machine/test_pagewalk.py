# SPDX-License-Identifier: Apache-2.0
"""Walks over made-up page tables: ones that map an address, ones that are broken, and plain noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import GuestMemoryError
from pyvmm.machine.pagewalk import is_canonical, walk

PG, PSE, PAE, LA57, LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 12, 1 << 10
ROOT = 0x5000
SIZE = 1 << 20

# mode: (cr4, efer, entry size, entries of the tables from the root down: (lowest bit, index bits), large page levels)
MODES = {
    "5-level": (PAE | LA57, LMA, 8, ((48, 9), (39, 9), (30, 9), (21, 9), (12, 9)), (2, 3)),
    "4-level": (PAE, LMA, 8, ((39, 9), (30, 9), (21, 9), (12, 9)), (1, 2)),
    "PAE": (PAE, 0, 8, ((30, 2), (21, 9), (12, 9)), (1,)),
    "32-bit": (PSE, 0, 4, ((22, 10), (12, 10)), (0,)),
}


class Memory:
    """A mebibyte of guest memory."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.reads = 0

    def read(self, gpa: int, length: int) -> bytes:
        self.reads += 1
        if not 0 <= gpa <= SIZE - length:
            raise GuestMemoryError(f"{gpa:#x}")
        return bytes(self.data[gpa : gpa + length])

    def entry(self, gpa: int, size: int, value: int) -> None:
        self.data[gpa : gpa + size] = value.to_bytes(size, "little")


def extend(vaddr: int, bits: int) -> int:
    """Sign-extends to a canonical address."""
    return vaddr | (2**64 - (1 << bits)) if vaddr >> (bits - 1) & 1 else vaddr


@st.composite
def mappings(draw):
    """(mode, address, where it maps to, level of its leaf)."""
    mode = draw(st.sampled_from(sorted(MODES)))
    _, _, size, tables, large = MODES[mode]
    bits = tables[0][0] + tables[0][1]
    vaddr = draw(st.integers(0, (1 << bits) - 1))
    leaf = draw(st.sampled_from([*large, len(tables) - 1]))
    shift = tables[leaf][0]
    # PSE-36 gives a 4 MiB page 40 bits of address; a 4 KiB page of 32-bit paging has 32.
    width = 52 if size == 8 else (40 if leaf == 0 else 32)
    page = draw(st.integers(0, (1 << width - shift) - 1)) << shift
    return mode, vaddr, page | vaddr & ((1 << shift) - 1), leaf


def build(memory: Memory, mode: str, vaddr: int, gpa: int, leaf: int, flags: int = 3) -> list[int]:
    """Writes the tables of one mapping; returns the addresses of its entries."""
    _, _, size, tables, _ = MODES[mode]
    addresses, table = [], ROOT
    for level, (shift, bits) in enumerate(tables[: leaf + 1]):
        address = table + (vaddr >> shift & (1 << bits) - 1) * size
        addresses.append(address)
        if level < leaf:
            table = ROOT + 0x1000 * (level + 1)
            value = table | (1 if mode == "PAE" and level == 0 else flags)
        else:
            value = gpa & ~((1 << shift) - 1)
            if size == 4 and level == 0:
                value = value & 0xFFC00000 | value >> 32 << 13
            value |= flags | (0x80 if level < len(tables) - 1 else 0)
        memory.entry(address, size, value)
    return addresses


def walk_in(memory: Memory, mode: str, vaddr: int, cr3: int = ROOT):
    cr4, efer, _, tables, _ = MODES[mode]
    if efer:
        vaddr = extend(vaddr, tables[0][0] + tables[0][1])
    return walk(memory, cr3, PG | 1, cr4, efer, vaddr)


@given(mappings())
def test_mapping_is_found(mapping):
    mode, vaddr, gpa, leaf = mapping
    memory = Memory()
    addresses = build(memory, mode, vaddr, gpa, leaf)
    result = walk_in(memory, mode, vaddr)
    assert (result.mode, result.gpa, result.reason) == (mode, gpa, "")
    assert result.page_size == 1 << MODES[mode][3][leaf][0]
    assert [level.address for level in result.levels] == addresses
    assert [level.leaf for level in result.levels] == [False] * leaf + [True]


@given(mappings(), st.data())
def test_entry_that_is_not_present_ends_the_walk(mapping, data):
    mode, vaddr, gpa, leaf = mapping
    memory = Memory()
    addresses = build(memory, mode, vaddr, gpa, leaf)
    at = data.draw(st.integers(0, leaf))
    memory.data[addresses[at]] &= 0xFE
    result = walk_in(memory, mode, vaddr)
    assert result.gpa is None
    assert result.reason == f"the {result.levels[-1].table} entry is not present"
    assert len(result.levels) == at + 1


@given(mappings(), st.data())
def test_table_outside_memory_ends_the_walk(mapping, data):
    mode, vaddr, gpa, leaf = mapping
    memory = Memory()
    addresses = build(memory, mode, vaddr, gpa, leaf)
    at = data.draw(st.integers(-1, leaf - 1))
    outside = 0x8000_0000
    if at >= 0:
        memory.entry(addresses[at], MODES[mode][2], outside | 1)
    result = walk_in(memory, mode, vaddr, ROOT if at >= 0 else outside)
    assert result.gpa is None
    assert "outside guest memory" in result.reason
    assert (len(result.levels), result.levels[-1].value) == (at + 2, None)


@given(st.sampled_from(sorted(MODES)), st.integers(0, 2**64 - 1))
def test_table_that_points_to_itself_is_bounded(mode, vaddr):
    memory = Memory()
    size = MODES[mode][2]
    for gpa in range(ROOT, ROOT + 0x1000, size):
        memory.entry(gpa, size, ROOT | 3)
    walk_in(memory, mode, vaddr & (1 << 32) - 1)
    assert memory.reads <= 5


registers = st.integers(0, 2**64 - 1)


@given(registers, registers, registers, registers, registers, st.integers(0, 999))
def test_noise_never_raises(cr3, cr0, cr4, efer, vaddr, seed):
    memory = Memory()
    memory.data[:] = random.Random(seed).randbytes(0x4000) * (SIZE // 0x4000)
    for control in (cr0, cr0 | PG):
        for table in (cr3, cr3 % SIZE):
            result = walk(memory, table, control, cr4, efer, vaddr)
            assert (result.gpa is None) == bool(result.reason)
            assert len(result.levels) <= 5
            for level in result.levels:
                level.flags()


def test_paging_off():
    result = walk(Memory(), 0xDEAD000, 1, 0, 0, 0x1_0000_1234)
    assert (result.mode, result.gpa, result.levels) == ("paging off", 0x1234, ())


@pytest.mark.parametrize("mode", ["4-level", "5-level"])
def test_address_that_is_not_canonical(mode):
    cr4, efer, _, tables, _ = MODES[mode]
    bits = tables[0][0] + tables[0][1]
    result = walk(Memory(), ROOT, PG, cr4, efer, 1 << (bits - 1))
    assert (result.gpa, result.reason) == (None, "the address is not canonical")
    assert is_canonical(2**64 - 1, bits)
    assert is_canonical((1 << (bits - 1)) - 1, bits)


def test_reserved_size_bit():
    memory = Memory()
    build(memory, "4-level", 0, 0, 3)
    memory.data[ROOT] |= 0x80
    assert walk_in(memory, "4-level", 0).reason == "reserved bit 7 is set in the PML4 entry"


def test_32_bit_paging_without_pse_ignores_the_size_bit():
    memory = Memory()
    build(memory, "32-bit", 0, 0x7000, 1)
    memory.data[ROOT] |= 0x80
    assert walk(memory, ROOT, PG, 0, 0, 0x10).gpa == 0x7010


def test_flags_have_names():
    memory = Memory()
    addresses = build(memory, "4-level", 0, 0, 2)
    memory.entry(addresses[-1], 8, 1 << 63 | 0x1E7)
    *_, leaf = walk_in(memory, "4-level", 0).levels
    assert leaf.flags() == [
        *("present", "write", "user", "accessed", "dirty", "global", "large", "no-execute"),
    ]
