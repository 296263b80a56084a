# SPDX-License-Identifier: Apache-2.0
"""PVH: an ELF kernel entered in 32-bit protected mode.

PVH is Xen's start-up interface, which Linux offers to every hypervisor (CONFIG_PVH): a note in the
file names the entry point, and EBX holds the address of ``struct hvm_start_info``
(include/xen/interface/hvm/start_info.h). There is nothing to unpack, so this is the fast way in.
Kernels of 32 and of 64 bits are entered alike.
"""

from __future__ import annotations

import struct

from pyvmm.boot import e820, elf, initrd, segments
from pyvmm.boot.e820 import HIGH_MEMORY
from pyvmm.boot.layout import PVH_START_INFO, low_memory_end, mib, write_command_line
from pyvmm.config import CpuState
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from pyvmm.boot.e820 import Entry
    from pyvmm.boot.elf import Elf, Segment
    from pyvmm.boot.image import Image, Source
    from pyvmm.boot.initrd import Placed
    from pyvmm.machine.memory import GuestMemory, Region
else:
    from pyvmm.record import NamedTuple

_XEN_PHYS32_ENTRY = 18
_START_MAGIC = 0x336EC578
_START_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MEMMAP = struct.Struct("<QQII")
#: Linux keeps the map in a table of 128 and adds the ISA hole itself.
_MAX_MEMMAP = 127
#: Linux cuts a PVH command line at COMMAND_LINE_SIZE, 2048 with its NUL, and says nothing.
_CMDLINE_MAX = 2047
#: Multiboot 2, sections 3.1.1 and 3.1.2: its header's magic, and where it may lie.
_MULTIBOOT2_MAGIC = struct.pack("<I", 0xE85250D6)
_MULTIBOOT2_SEARCH = 32768


class Kernel(NamedTuple):
    """The segments of the file, by ascending address, and the PVH entry point."""

    segments: tuple[Segment, ...]
    entry: int

    @property
    def end(self) -> int:
        """The first guest-physical address after the last segment."""
        return self.segments[-1].end


def parse(image: Image) -> Kernel:
    """Read and check the headers and the PVH note (XEN_ELFNOTE_PHYS32_ENTRY).

    Raise `ImageError`, which says what is wrong and what to do.
    """
    file = elf.parse(image)
    entry = _entry(image, file)
    if entry is None:
        raise ImageError(f"{image.name} {_no_entry(image)}")
    loads = file.segments
    if loads[0].paddr < HIGH_MEMORY:
        raise ImageError(
            f"{image.name} has a segment at {loads[0].paddr:#x}, and kernels are loaded from 1 MiB "
            "up; link it higher"
        )
    if not any(load.paddr <= entry < load.paddr + load.filesz for load in loads):
        raise ImageError(f"{image.name} is malformed: the PVH entry {entry:#x} is in no segment")
    return Kernel(loads, entry)


def _entry(image: Image, file: Elf) -> int | None:
    """Return the address in a XEN_ELFNOTE_PHYS32_ENTRY note, if the file has one."""
    for header in file.notes:
        for owner, kind, value in elf.notes_of(image, header):
            if kind == _XEN_PHYS32_ENTRY and owner == b"Xen\0":
                # The note is 4 or 8 bytes wide, by the size of a pointer; the address has 32 bits.
                entry = int.from_bytes(value, "little")
                if len(value) not in (4, 8) or entry >> 32:
                    raise ImageError(
                        f"{image.name} is malformed: its PVH note is no 32-bit address"
                    )
                return entry
    return None


def _no_entry(image: Image) -> str:
    """Return the reason and the remedy for a kernel without a PVH note."""
    head = image.read(0, min(image.size, _MULTIBOOT2_SEARCH))
    if any(head.startswith(_MULTIBOOT2_MAGIC, at) for at in range(0, len(head), 8)):
        return "has a Multiboot 2 header only; give it one of Multiboot 1, or a PVH note"
    return (
        "has no PVH entry point and no Multiboot header; build that kernel with CONFIG_PVH=y, "
        "or give its bzImage"
    )


def load(
    image: Image,
    memory: GuestMemory,
    *,
    cmdline: str = "",
    initrd_parts: Iterable[Source] = (),
    rsdp: int = 0,
    reserved: Iterable[Region] = (),
    fresh: bool = True,
) -> CpuState:
    """Load the kernel with all it is told; return the state of the first vCPU.

    ``fresh`` says that guest memory has never been written (`elf.load`). Raise `ImageError` for a
    bad image and `ConfigError` when kernel, initrd or command line do not fit.
    """
    kernel = parse(image)
    low_end = low_memory_end(memory)
    if kernel.end > low_end:
        raise ConfigError(
            f"{image.name} occupies memory up to {mib(kernel.end)} MiB, and the guest has "
            f"{mib(low_end)} MiB below the device hole; give it more memory"
        )
    command_line = write_command_line(memory, cmdline, _CMDLINE_MAX)
    placed = initrd.load(memory, initrd_parts, floor=kernel.end, ceiling=low_end)
    elf.load(image, memory, kernel.segments, fresh=fresh)
    start_info = _write_start_info(
        memory, command_line, placed, rsdp, e820.build(memory.ram, reserved)
    )
    return CpuState(
        mode="protected",
        rip=kernel.entry,
        rbx=start_info,
        gdt_base=segments.write_gdt(memory, long_mode=False),
        gdt_limit=segments.GDT_LIMIT,
    )


def _write_start_info(
    memory: GuestMemory, cmdline: int, placed: Placed, rsdp: int, memmap: tuple[Entry, ...]
) -> int:
    """Write hvm_start_info version 1, its module list and its memory map, one after the other."""
    if len(memmap) > _MAX_MEMMAP:
        raise ConfigError(
            f"the memory map has {len(memmap)} entries and a PVH kernel takes {_MAX_MEMMAP}; "
            "reserve fewer regions"
        )
    modules = PVH_START_INFO + 64
    table = modules + _MODULE.size
    memory.write(
        PVH_START_INFO,
        _START_INFO.pack(
            _START_MAGIC,
            1,
            0,
            1 if placed.size else 0,
            modules if placed.size else 0,
            cmdline,
            rsdp,
            table,
            len(memmap),
            0,
        ),
    )
    memory.write(modules, _MODULE.pack(placed.gpa, placed.size, 0, 0))
    memory.write(table, b"".join(_MEMMAP.pack(*entry, 0) for entry in memmap))
    return PVH_START_INFO
