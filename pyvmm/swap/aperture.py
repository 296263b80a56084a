# SPDX-License-Identifier: Apache-2.0
"""Where the memory of a swap disk lies in the guest: the aperture, and the room for page structures
below it.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.machine.memory import GIB, HOLE_END, MIB, PAGE, Region

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple
else:
    from pyvmm.record import NamedTuple

ALIGNMENT = 2 * MIB
#: The unit for which Linux puts page structures into the room, a whole one at a time (a section of its memory model).
SECTION = 128 * MIB
#: Bytes that Linux keeps for each page of memory (struct page).
PAGE_STRUCTURE = 64
#: Pages of one KVM memory slot (KVM_MEM_MAX_NR_PAGES), as whole units of `ALIGNMENT`, in bytes.
LARGEST = ((1 << 31) - 1) * PAGE // ALIGNMENT * ALIGNMENT


class Aperture(NamedTuple):
    """Guest-physical, in bytes: slot k is at `base` + 4096k, and `room` bytes lie directly below
    `base`.
    """

    base: int
    size: int
    room: int

    @property
    def start(self) -> int:
        """The guest-physical address at which the room begins."""
        return self.base - self.room

    @property
    def end(self) -> int:
        """The first guest-physical address after the last slot."""
        return self.base + self.size

    @property
    def region(self) -> Region:
        """Room and slots as one region, which the memory map leaves out of RAM."""
        return Region(self.start, self.room + self.size)


def room_for(size: int) -> int:
    """Return the bytes for the page structures of `size` bytes and of the room itself, a multiple
    of 2 MiB.

    Room and aperture are whole sections together: Linux takes the page structures of any rest from
    its own RAM.
    """
    total = _up(size, SECTION)
    while (total - size) * PAGE < total * PAGE_STRUCTURE:
        total += SECTION
    return total - size


def _up(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def place(ram: Iterable[Region], size: int, address_bits: int) -> Aperture:
    """Place an aperture of `size` bytes: from the first GiB boundary at or after the end of RAM and
    4 GiB on.

    `address_bits` is the guest's physical address width (CPUID 0x80000008). Raise ConfigError for
    what does not fit.
    """
    if not 0 < size <= LARGEST or size % ALIGNMENT:
        raise ConfigError(f"a swap store of {size} bytes: it must be a multiple of 2 MiB")
    after_ram = max(region.gpa + region.size for region in ram)
    start = _up(max(HOLE_END, after_ram), GIB)
    room = room_for(size)
    placed = Aperture(start + room, size, room)
    if placed.end > 1 << address_bits:
        raise ConfigError(
            f"a swap store of {size} bytes ends at {placed.end:#x}, and the guest's processor has {address_bits} bits "
            "of physical addresses; make it smaller"
        )
    return placed
