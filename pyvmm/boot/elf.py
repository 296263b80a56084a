# SPDX-License-Identifier: Apache-2.0
"""The ELF kernel: vmlinux, entered by PVH in 32-bit protected mode.

PVH is Xen's start-up interface, which Linux offers to every hypervisor (CONFIG_PVH): a note in the
file names the entry point, and EBX holds the address of ``struct hvm_start_info``
(include/xen/interface/hvm/start_info.h). There is nothing to unpack, so this is the fast way in.
The parser reads program headers and nothing else, with `struct` alone: it runs at every launch.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from pyvmm.boot import e820, initrd, segments
from pyvmm.boot.e820 import HIGH_MEMORY
from pyvmm.boot.layout import PVH_START_INFO, low_memory_end, mib, write_command_line
from pyvmm.errors import ConfigError, ImageError
from pyvmm.machine.cpustate import CpuState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NamedTuple

    from pyvmm.boot.e820 import Entry
    from pyvmm.boot.image import Image, Source
    from pyvmm.boot.initrd import Placed
    from pyvmm.machine.memory import GuestMemory, Region
else:
    from pyvmm.record import NamedTuple

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_CLASS64, _LITTLE_ENDIAN, _X86_64 = 2, 1, 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
#: More program headers, or more bytes of notes, than any kernel has.
_MAX_PHDRS = 256
_MAX_NOTES = 1 << 20
_XEN_PHYS32_ENTRY = 18

_START_MAGIC = 0x336EC578
_START_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MEMMAP = struct.Struct("<QQII")
#: Linux keeps the map in a table of 128 and adds the ISA hole itself.
_MAX_MEMMAP = 127
#: Linux cuts a PVH command line at COMMAND_LINE_SIZE, 2048 with its NUL, and says nothing.
_CMDLINE_MAX = 2047
_ZEROS = bytes(1 << 16)

_TYPES = {1: "an object file or kernel module", 4: "a core dump"}
_MACHINES = {3: "32-bit x86", 40: "ARM", 183: "ARM64", 243: "RISC-V", 21: "PowerPC", 22: "s390"}


class Segment(NamedTuple):
    """A part of the file that belongs in memory: ``filesz`` bytes at ``offset``, then zeros to ``memsz``."""

    offset: int
    paddr: int
    filesz: int
    memsz: int


class Kernel(NamedTuple):
    """What the file says: its segments, by ascending address, and the PVH entry point."""

    segments: tuple[Segment, ...]
    entry: int

    @property
    def end(self) -> int:
        """The first address after the last segment."""
        return max(segment.paddr + segment.memsz for segment in self.segments)


def parse(image: Image) -> Kernel:
    """Read and check the headers and the PVH note; `ImageError` says what is wrong and what to do."""
    loads: list[Segment] = []
    entry: int | None = None
    for kind, offset, paddr, filesz, memsz, align in _program_headers(image):
        if kind == _PT_LOAD and memsz:
            loads.append(_segment(image, offset, paddr, filesz, memsz))
        elif kind == _PT_INTERP:
            raise ImageError(f"{image.name} is a program for user space; give a kernel's vmlinux")
        elif kind == _PT_NOTE and entry is None:
            entry = _pvh_entry(image, offset, filesz, align)
    if entry is None:
        raise ImageError(
            f"{image.name} has no PVH entry point; build that kernel with CONFIG_PVH=y, "
            "or give its bzImage"
        )
    loads.sort(key=lambda segment: segment.paddr)
    if loads and loads[0].paddr < HIGH_MEMORY:
        raise ImageError(
            f"{image.name} has a segment at {loads[0].paddr:#x}, and kernels are loaded from 1 MiB "
            "up; link it higher"
        )
    for lower, upper in pairwise(loads):
        if lower.paddr + lower.memsz > upper.paddr:
            raise ImageError(f"{image.name} is malformed: segments overlap at {upper.paddr:#x}")
    if not any(load.paddr <= entry < load.paddr + load.filesz for load in loads):
        raise ImageError(f"{image.name} is malformed: the PVH entry {entry:#x} is in no segment")
    return Kernel(tuple(loads), entry)


def _program_headers(image: Image) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Type, offset, physical address, file size, memory size and alignment of each."""
    if image.size < _EHDR.size:
        raise ImageError(
            f"{image.name} is truncated: {image.size} bytes do not hold an ELF header; "
            "copy or build it again"
        )
    ident, kind, machine, _, _, table, _, _, _, size, count, *_ = _EHDR.unpack(
        image.read(0, _EHDR.size)
    )
    _check_header(ident, kind, machine, image.name)
    if size != _PHDR.size or not 1 <= count <= _MAX_PHDRS:
        raise ImageError(
            f"{image.name} is malformed: {count} program headers of {size} bytes; "
            f"a kernel has 1 to {_MAX_PHDRS} of {_PHDR.size}"
        )
    for header in _PHDR.iter_unpack(image.read(table, size * count)):
        kind, _flags, offset, _vaddr, paddr, filesz, memsz, align = header
        yield kind, offset, paddr, filesz, memsz, align


def _check_header(ident: bytes, kind: int, machine: int, name: str) -> None:
    """Refuse what is not a 64-bit little-endian x86-64 executable."""
    if ident[:4] != b"\x7fELF":
        raise ImageError(f"{name} is not an ELF file")
    if ident[5] != _LITTLE_ENDIAN:
        raise ImageError(f"{name} is a big-endian ELF file; give an x86-64 kernel")
    if ident[4] != _CLASS64 or machine != _X86_64:
        what = _MACHINES.get(machine, f"machine {machine}")
        if machine == _X86_64:
            what = "32-bit (x32)"
        raise ImageError(f"{name} is an ELF file for {what}; give an x86-64 kernel")
    if kind not in (_ET_EXEC, _ET_DYN):
        what = _TYPES.get(kind, f"an ELF file of type {kind}")
        raise ImageError(f"{name} is {what}; give the linked kernel, vmlinux")


def _segment(image: Image, offset: int, paddr: int, filesz: int, memsz: int) -> Segment:
    if filesz > memsz:
        raise ImageError(
            f"{image.name} is malformed: the segment at {paddr:#x} has {filesz} bytes in the file and "
            f"{memsz} in memory"
        )
    if offset + filesz > image.size:
        raise ImageError(
            f"{image.name} is truncated: a segment ends at byte {offset + filesz} and the file has "
            f"{image.size}; copy or build it again"
        )
    return Segment(offset, paddr, filesz, memsz)


def _pvh_entry(image: Image, offset: int, size: int, align: int) -> int | None:
    """The address in a XEN_ELFNOTE_PHYS32_ENTRY note, if these notes have one."""
    if size > _MAX_NOTES:
        raise ImageError(f"{image.name} is malformed: {size} bytes of notes")
    notes = image.read(offset, size)
    pad = 7 if align == 8 else 3
    at = 0
    while at + _NHDR.size <= size:
        name_size, value_size, kind = _NHDR.unpack_from(notes, at)
        name_at = at + _NHDR.size
        value_at = (name_at + name_size + pad) & ~pad
        at = (value_at + value_size + pad) & ~pad
        if value_at + value_size > size:
            raise ImageError(f"{image.name} is malformed: a note reaches beyond its segment")
        owner = notes[name_at : name_at + name_size]
        if kind == _XEN_PHYS32_ENTRY and owner == b"Xen\0":
            # The note is 4 or 8 bytes wide, by the size of a pointer; the address has 32 bits.
            entry = int.from_bytes(notes[value_at : value_at + value_size], "little")
            if value_size not in (4, 8) or entry >> 32:
                raise ImageError(f"{image.name} is malformed: its PVH note is no 32-bit address")
            return entry
    return None


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

    ``fresh`` says that guest memory has never been written, so that it is zero where a segment's
    file part ends (the bss); otherwise that is cleared here. Raises `ImageError` for a bad image
    and `ConfigError` when kernel, initrd or command line do not fit.
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
    for segment in kernel.segments:
        with memory.view(segment.paddr, segment.filesz) as view:
            image.read_into(segment.offset, view)
        if segment.memsz > segment.filesz and not fresh:
            _clear(memory, segment.paddr + segment.filesz, segment.memsz - segment.filesz)
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


def _clear(memory: GuestMemory, gpa: int, length: int) -> None:
    with memory.view(gpa, length) as view:
        for offset in range(0, length, len(_ZEROS)):
            view[offset : offset + len(_ZEROS)] = _ZEROS[: length - offset]


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
