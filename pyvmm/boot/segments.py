# SPDX-License-Identifier: Apache-2.0
"""The flat descriptor table and the identity page tables that a kernel is started with."""

from __future__ import annotations

import struct

from pyvmm.boot.layout import GDT, PAGE_SIZE, PAGE_TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.memory import GuestMemory

# Descriptors (SDM volume 3, 3.4.5): base 0, limit 4 GiB by pages, present, ring 0, accessed. Bit 53
# is L, bit 54 is D/B. The first two are the null descriptor and one that the boot protocol leaves
# unused.
_CODE64 = 0x00AF_9B00_0000_FFFF
_CODE32 = 0x00CF_9B00_0000_FFFF
_DATA = 0x00CF_9300_0000_FFFF

# Page table entries (SDM volume 3, 4.5): present and writable; bit 7 makes a large page.
_TABLE = 0b11
_LARGE = 0b1000_0011

_GIB = 1 << 30
_TWO_MIB = 2 << 20
#: Address space that the identity map covers: the first 4 GiB.
MAPPED_GIB = 4

#: The last byte's offset in the GDT.
GDT_LIMIT = 4 * 8 - 1
#: First address after the page tables of either kind.
PAGE_TABLES_END = PAGE_TABLES + (2 + MAPPED_GIB) * PAGE_SIZE


def write_gdt(memory: GuestMemory, *, long_mode: bool, at: int = GDT) -> int:
    """Write a GDT with flat code at selector 0x10 and data at 0x18; return its guest-physical
    address (Intel SDM volume 3, 3.4.5).
    """
    memory.write(at, struct.pack("<4Q", 0, 0, _CODE64 if long_mode else _CODE32, _DATA))
    return at


def write_identity_map(memory: GuestMemory, *, gib_pages: bool = False) -> int:
    """Map the first 4 GiB to themselves; return what CR3 takes (Intel SDM volume 3, 4.5).

    ``gib_pages``: the guest's CPUID reports 1 GiB pages (0x80000001 EDX bit 26). They make two
    pages of tables do; without them it takes six.
    """
    directory_pointers = PAGE_TABLES + PAGE_SIZE
    directories = directory_pointers + PAGE_SIZE
    if gib_pages:
        upper = [index * _GIB | _LARGE for index in range(MAPPED_GIB)]
    else:
        upper = [directories + index * PAGE_SIZE | _TABLE for index in range(MAPPED_GIB)]
        large = range(_LARGE, MAPPED_GIB * _GIB, _TWO_MIB)
        memory.write(directories, struct.pack(f"<{len(large)}Q", *large))
    memory.write(PAGE_TABLES, _table(directory_pointers | _TABLE))
    memory.write(directory_pointers, _table(*upper))
    return PAGE_TABLES


def _table(*entries: int) -> bytes:
    """Return one page of entries, the rest not present; whole, so that old content does not count."""
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(PAGE_SIZE, b"\0")
