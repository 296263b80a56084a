# SPDX-License-Identifier: Apache-2.0
"""The memory map a kernel is told, in the BIOS's E820 form (ACPI 6.3, section 15.1)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from pyvmm.machine.memory import Region
else:
    from pyvmm.record import NamedTuple

RAM = 1
RESERVED = 2

#: The upper end of conventional memory, from where on the first MiB belongs to firmware and ACPI
#: tables.
EBDA = 0x9FC00
HIGH_MEMORY = 0x100000


class Entry(NamedTuple):
    """``size`` bytes from guest-physical ``addr``, of type `RAM` or `RESERVED`."""

    addr: int
    size: int
    type: int


def build(ram: Iterable[Region], reserved: Iterable[Region] = ()) -> tuple[Entry, ...]:
    """Return the map of ``ram`` with the firmware's area and ``reserved`` taken out, ascending and
    disjoint.

    ``reserved`` regions may lie inside RAM, outside it, or across its border, and may overlap each
    other.
    """
    holes = [(region.gpa, region.gpa + region.size) for region in reserved if region.size > 0]
    holes = _merge([*holes, (EBDA, HIGH_MEMORY)])
    entries = [Entry(start, end - start, RESERVED) for start, end in holes]
    for region in ram:
        entries.extend(_without(region.gpa, region.gpa + region.size, holes))
    return tuple(sorted(entries))


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without(start: int, end: int, holes: list[tuple[int, int]]) -> Iterable[Entry]:
    """Return what ``holes`` (ascending, disjoint) leave of the RAM from ``start`` to ``end``."""
    for hole_start, hole_end in holes:
        if hole_end <= start:
            continue
        if hole_start >= end:
            break
        if start < hole_start:
            yield Entry(start, hole_start - start, RAM)
        start = hole_end
    if start < end:
        yield Entry(start, end - start, RAM)
