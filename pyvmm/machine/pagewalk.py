# SPDX-License-Identifier: Apache-2.0
"""The guest's own page tables, walked in software: SDM volume 3A chapter 4, APM volume 2 chapter 5.

Meant for looking at a guest that went wrong, so nothing in the tables is believed: a walk reads at
most five entries and ends with a reason wherever it cannot go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import GuestMemoryError

if TYPE_CHECKING:
    from pyvmm.machine.memory import GuestMemory

CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
EFER_LMA = 1 << 10

PRESENT = 1 << 0
LARGE = 1 << 7

#: Bits 12 to 51 of an entry, and of CR3: the next table's address.
ADDRESS = 0x000F_FFFF_FFFF_F000

_COMMON = ((0, "present"), (1, "write"), (2, "user"), (3, "pwt"), (4, "pcd"), (5, "accessed"))
_LEAF = ((6, "dirty"), (8, "global"))
NO_EXECUTE = 63


class Level(NamedTuple):
    """One step: the entry `slot` of a `table` at guest-physical `address`; its `value` is None if
    unreadable.

    `leaf` says that it maps the page and does not point to another table.
    """

    table: str
    slot: int
    address: int
    value: int | None
    leaf: bool

    def flags(self) -> list[str]:
        """Return the names of the bits that are set in the entry, such as "write"; none without an
        entry.
        """
        if self.value is None:
            return []
        bits = _COMMON + (_LEAF if self.leaf else ())
        names = [name for bit, name in bits if self.value >> bit & 1]
        if self.leaf and self.table != "PT":
            names.append("large")
        if self.value >> NO_EXECUTE & 1:
            names.append("no-execute")
        return names


class Walk(NamedTuple):
    """The end of the walk for `vaddr` (a linear address) under paging `mode`.

    Either `gpa` is its guest-physical address, in a page of `page_size` bytes (0 without paging),
    or it is None and `reason` says why. The page itself need not be RAM.
    """

    mode: str
    vaddr: int
    levels: tuple[Level, ...]
    gpa: int | None
    page_size: int
    reason: str


class _Paging(NamedTuple):
    """A paging mode: per table its name, lowest address bit, index bits, and whether it may map a
    large page.
    """

    name: str
    bits: int
    entry_size: int
    tables: tuple[tuple[str, int, int, bool], ...]
    root: int


_PT = ("PT", 12, 9, False)
_PD = ("PD", 21, 9, True)
_PDPT = ("PDPT", 30, 9, True)
_PML4 = ("PML4", 39, 9, False)
_PML5 = ("PML5", 48, 9, False)

LEVEL5 = _Paging("5-level", 57, 8, (_PML5, _PML4, _PDPT, _PD, _PT), ADDRESS)
LEVEL4 = _Paging("4-level", 48, 8, (_PML4, _PDPT, _PD, _PT), ADDRESS)
PAE = _Paging("PAE", 32, 8, (("PDPT", 30, 2, False), _PD, _PT), 0xFFFF_FFE0)
LEGACY = _Paging("32-bit", 32, 4, (("PD", 22, 10, False), ("PT", 12, 10, False)), 0xFFFF_F000)
LEGACY_PSE = LEGACY._replace(tables=(("PD", 22, 10, True), ("PT", 12, 10, False)))


def _paging(cr4: int, efer: int) -> _Paging:
    if efer & EFER_LMA:
        return LEVEL5 if cr4 & CR4_LA57 else LEVEL4
    if cr4 & CR4_PAE:
        return PAE
    return LEGACY_PSE if cr4 & CR4_PSE else LEGACY


def is_canonical(vaddr: int, bits: int) -> bool:
    """Return whether bit `bits` - 1 is repeated up to bit 63."""
    top = vaddr >> (bits - 1)
    return top in (0, (1 << (65 - bits)) - 1)


def _page_base(value: int, shift: int, entry_size: int) -> int:
    if entry_size == 4 and shift == 22:  # PSE-36: bits 13 to 20 are address bits 32 to 39
        return value & 0xFFC0_0000 | (value >> 13 & 0xFF) << 32
    limit = ADDRESS if entry_size == 8 else 0xFFFF_F000
    return value & limit & ~((1 << shift) - 1)


def walk(memory: GuestMemory, cr3: int, cr0: int, cr4: int, efer: int, vaddr: int) -> Walk:
    """Translate a linear address as the CPU would with these registers, access rights aside.

    Outside 64-bit mode only the low 32 bits of `vaddr` count. Never raises for what the guest's
    tables hold.
    """
    if not cr0 & CR0_PG:
        return Walk("paging off", vaddr, (), vaddr & 0xFFFF_FFFF, 0, "")
    paging = _paging(cr4, efer)
    if paging.bits == 32:
        vaddr &= 0xFFFF_FFFF
    elif not is_canonical(vaddr, paging.bits):
        return Walk(paging.name, vaddr, (), None, 0, "the address is not canonical")
    levels: list[Level] = []
    gpa, size, reason = _descend(memory, paging, cr3 & paging.root, vaddr, levels)
    return Walk(paging.name, vaddr, tuple(levels), gpa, size, reason)


def _descend(
    memory: GuestMemory, paging: _Paging, table: int, vaddr: int, levels: list[Level]
) -> tuple[int | None, int, str]:
    last = paging.tables[-1][0]
    for name, shift, bits, may_be_large in paging.tables:
        slot = vaddr >> shift & ((1 << bits) - 1)
        address = table + slot * paging.entry_size
        try:
            value = int.from_bytes(memory.read(address, paging.entry_size), "little")
        except GuestMemoryError:
            levels.append(Level(name, slot, address, None, False))
            return None, 0, f"the {name} entry at {address:#x} is outside guest memory"
        leaf = name == last or bool(may_be_large and value & LARGE)
        levels.append(Level(name, slot, address, value, leaf))
        if not value & PRESENT:
            return None, 0, f"the {name} entry is not present"
        if leaf:
            size = 1 << shift
            base = _page_base(value, shift, paging.entry_size)
            return base | vaddr & (size - 1), size, ""
        if value & LARGE and _large_is_reserved(paging, name):
            return None, 0, f"reserved bit 7 is set in the {name} entry"
        table = value & (ADDRESS if paging.entry_size == 8 else 0xFFFF_F000)
    raise AssertionError("the last table always ends the walk")


def _large_is_reserved(paging: _Paging, table: str) -> bool:
    # Ignored, not reserved, in a 32-bit page directory without CR4.PSE.
    return paging.entry_size == 8 and table in ("PML5", "PML4", "PDPT")
