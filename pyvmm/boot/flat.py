# SPDX-License-Identifier: Apache-2.0
"""Flat binaries: code without a header, started in the processor mode it was written for."""

from __future__ import annotations

from pyvmm.boot import segments
from pyvmm.boot.image import Image
from pyvmm.boot.layout import GDT, PAGE_TABLES
from pyvmm.config import CpuState
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Source
    from pyvmm.machine.memory import GuestMemory

#: Where a binary goes that names no address: real mode as a BIOS loads a boot sector, the others at
#: 1 MiB.
DEFAULT_ADDRESS = {"real": 0x7C00, "protected": 0x100000, "long": 0x100000}
#: Stacks of protected and long mode grow down from here.
STACK_TOP = 0x80000
_REAL_MODE_END = 0x10000


def load(
    source: Source,
    memory: GuestMemory,
    *,
    mode: str = "real",
    address: int | None = None,
    entry: int | None = None,
    gib_pages: bool = False,
) -> CpuState:
    """Load ``source``, a path or the code itself, and return the state of the first vCPU.

    ``mode`` is ``"real"``, ``"protected"`` (32-bit, flat, no paging) or ``"long"`` (64-bit, the
    first 4 GiB mapped to themselves). ``address`` is guest-physical; ``entry``, also
    guest-physical, defaults to it. The stack grows down from the code in real mode, from
    `STACK_TOP` otherwise. Raise `ConfigError` when mode and place do not agree, `ImageError` for
    an unusable file.
    """
    if mode not in DEFAULT_ADDRESS:
        raise ConfigError(f"{mode!r} is not a processor mode; use 'real', 'protected' or 'long'")
    address = DEFAULT_ADDRESS[mode] if address is None else address
    entry = address if entry is None else entry
    with Image(source, "flat binary") as image:
        if image.size == 0:
            raise ImageError(f"{image.name} is empty")
        _check_place(image, memory, mode, address, entry)
        with memory.view(address, image.size) as view:
            image.read_into(0, view)
    if mode == "real":
        return CpuState(mode="real", rip=entry, rsp=address & ~1)
    long_mode = mode == "long"
    return CpuState(
        mode=mode,
        rip=entry,
        rsp=STACK_TOP,
        cr3=segments.write_identity_map(memory, gib_pages=gib_pages) if long_mode else 0,
        gdt_base=segments.write_gdt(memory, long_mode=long_mode),
        gdt_limit=segments.GDT_LIMIT,
    )


def _check_place(image: Image, memory: GuestMemory, mode: str, address: int, entry: int) -> None:
    """Refuse a place outside RAM, out of the mode's reach, or on the tables the mode needs."""
    end = address + image.size
    if not any(ram.gpa <= address and end <= ram.gpa + ram.size for ram in memory.ram):
        raise ConfigError(
            f"{image.name}, {image.size} bytes at {address:#x}, does not lie in guest memory; "
            "give another address or more memory"
        )
    if not address <= entry < end:
        raise ConfigError(f"the entry {entry:#x} is not in {image.name}, {address:#x} to {end:#x}")
    if mode == "real":
        if entry >= _REAL_MODE_END:
            raise ConfigError(
                f"real mode starts below {_REAL_MODE_END:#x}, and the entry is {entry:#x}; "
                "load it lower"
            )
        return
    tables = [(GDT, GDT + segments.GDT_LIMIT + 1)]
    if mode == "long":
        tables.append((PAGE_TABLES, segments.PAGE_TABLES_END))
    for start, table_end in tables:
        if address < table_end and start < end:
            raise ConfigError(
                f"{image.name} at {address:#x} would lie on the boot tables at {start:#x} to "
                f"{table_end:#x}; load it at another address"
            )
