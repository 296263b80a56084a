# SPDX-License-Identifier: Apache-2.0
"""Multiboot 1: kernels that carry its header, entered in 32-bit protected mode.

That is how hobby kernels and kvm-unit-tests come (Multiboot Specification 0.6.96). EAX holds a
magic number and EBX the address of the information structure: memory map, command line, modules.
A video mode that a kernel asks for is a wish, which this machine without a display does not grant.
"""

from __future__ import annotations

import os
import struct

from pyvmm.boot import e820, elf, segments
from pyvmm.boot.e820 import EBDA, HIGH_MEMORY
from pyvmm.boot.elf import Segment
from pyvmm.boot.image import Image
from pyvmm.boot.layout import PAGE_SIZE, align_up, encode_line, low_memory_end, mib
from pyvmm.config import CpuState
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NamedTuple

    from pyvmm.boot.e820 import Entry
    from pyvmm.boot.image import Source
    from pyvmm.machine.memory import GuestMemory, Region
else:
    from pyvmm.record import NamedTuple

#: The header lies in the first 8 KiB of the file, all of it, at a multiple of 4 (3.1).
SEARCH_SIZE = 8192
MAGIC = struct.pack("<I", 0x1BADB002)
_HEADER = struct.Struct("<III")
_ADDRESSES = struct.Struct("<IIIII")
#: Bits 0 to 15 are what the kernel needs (3.1.2): modules on pages, memory sizes, a video mode.
_KNOWN_NEEDS = 0b111
_NEEDS = 0xFFFF
_HAS_ADDRESSES = 1 << 16

_LOADER_MAGIC = 0x2BADB002
#: The information structure (3.3), up to and with the name of the boot loader. Its flags say that it
#: has memory sizes, command line, modules, memory map and that name.
_INFO = struct.Struct("<IIIIIII16xIIIIII20x")
_INFO_FLAGS = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
_MODULE = struct.Struct("<IIII")
_MEMMAP = struct.Struct("<IQQI")
_LOADER_NAME = b"pyvmm\0"
#: The report to the kernel lies below the EBDA, and above the interrupt table and the BIOS's data.
_LOWEST = 0x1000


class Header(NamedTuple):
    """The header at byte ``at`` of the file; ``addresses`` are its address fields, if it has them."""

    at: int
    flags: int
    addresses: tuple[int, ...] | None


class Kernel(NamedTuple):
    """The parts of the file by ascending guest-physical address, and where the kernel begins."""

    segments: tuple[Segment, ...]
    entry: int

    @property
    def end(self) -> int:
        """The first guest-physical address after the last part."""
        return self.segments[-1].end


class Module(NamedTuple):
    """A file in guest memory, from ``start`` to before ``end``, and the string that goes with it."""

    start: int
    end: int
    string: bytes


def find(head: bytes) -> Header | None:
    """Find the header in the first `SEARCH_SIZE` bytes of a file (section 3.1.1); None for none."""
    head = head[:SEARCH_SIZE]
    at = head.find(MAGIC)
    while at >= 0:
        if at % 4 == 0 and at + _HEADER.size <= len(head):
            magic, flags, checksum = _HEADER.unpack_from(head, at)
            if (magic + flags + checksum) & 0xFFFFFFFF == 0:
                return _header(head, at, flags)
        at = head.find(MAGIC, at + 1)
    return None


def _header(head: bytes, at: int, flags: int) -> Header | None:
    if not flags & _HAS_ADDRESSES:
        return Header(at, flags, None)
    place = at + _HEADER.size
    if place + _ADDRESSES.size > len(head):
        return None
    return Header(at, flags, _ADDRESSES.unpack_from(head, place))


def parse(image: Image) -> Kernel:
    """Read and check the header (section 3.1), and what it says of the file.

    Raise `ImageError`, which says what is wrong.
    """
    header = find(image.read(0, min(image.size, SEARCH_SIZE)))
    if header is None:
        raise ImageError(f"{image.name} has no Multiboot header in its first {SEARCH_SIZE} bytes")
    unknown = header.flags & _NEEDS & ~_KNOWN_NEEDS
    if unknown:
        raise ImageError(
            f"{image.name} asks for features of a Multiboot loader that there are none of: "
            f"flags {unknown:#x}; clear them in its header"
        )
    kernel = _by_addresses(image, header) if header.addresses else _by_elf(image)
    for part in kernel.segments:
        if part.paddr < HIGH_MEMORY and part.end > EBDA:
            raise ImageError(
                f"{image.name} has a part at {part.paddr:#x} to {part.end:#x}, and the firmware's "
                f"tables are at {EBDA:#x} to {HIGH_MEMORY:#x}; link it at 1 MiB or higher"
            )
    return kernel


def _by_addresses(image: Image, header: Header) -> Kernel:
    """Return the layout that the header's own fields give (3.1.3): one part, its bss and an entry
    point.
    """
    assert header.addresses is not None
    header_addr, load_addr, load_end, bss_end, entry = header.addresses
    offset = header.at - (header_addr - load_addr)
    if load_addr > header_addr or offset < 0:
        raise ImageError(
            f"{image.name} is malformed: its Multiboot header, at byte {header.at} of the file, "
            f"states its own address as {header_addr:#x} and a start at {load_addr:#x}"
        )
    size = load_end - load_addr if load_end else image.size - offset
    end = bss_end or load_addr + size
    if size <= 0 or end < load_addr + size:
        raise ImageError(
            f"{image.name} is malformed: its Multiboot header states addresses {load_addr:#x} to "
            f"{load_end:#x}, with zeros to {bss_end:#x}"
        )
    if offset + size > image.size:
        raise ImageError(
            f"{image.name} is truncated: its Multiboot header states {offset + size} bytes and the "
            f"file has {image.size}; copy or build it again"
        )
    if not load_addr <= entry < load_addr + size:
        raise ImageError(
            f"{image.name} is malformed: its entry point {entry:#x} is not in what is loaded, "
            f"{load_addr:#x} to {load_addr + size:#x}"
        )
    part = Segment(offset, load_addr, load_addr, size, end - load_addr)
    return Kernel((part,), entry)


def _by_elf(image: Image) -> Kernel:
    """Return the layout of an ELF file. Its entry point may be a virtual address or a physical one."""
    if image.read(0, min(image.size, 4)) != b"\x7fELF":
        raise ImageError(
            f"{image.name} has a Multiboot header without addresses (flag 16), and is no ELF file; "
            "set the flag and the five addresses, or link an ELF file"
        )
    file = elf.parse(image)
    for part in file.segments:
        if part.vaddr <= file.entry < part.vaddr + part.filesz:
            return Kernel(file.segments, _low(image, file.entry - part.vaddr + part.paddr))
    for part in file.segments:
        if part.paddr <= file.entry < part.paddr + part.filesz:
            return Kernel(file.segments, _low(image, file.entry))
    raise ImageError(f"{image.name} is malformed: its entry point {file.entry:#x} is in no segment")


def _low(image: Image, entry: int) -> int:
    if entry >> 32:
        raise ImageError(
            f"{image.name} begins at {entry:#x}, and 32-bit mode reaches 4 GiB; link it lower"
        )
    return entry


def split_module(text: str) -> tuple[str, str]:
    """Take the text of a module apart: its file name, and the string that goes with it.

    Of ``"FILE ARGS"`` the name ends at the first space, and the string is all of it. A file whose
    name has spaces is taken whole if there is one.
    """
    return (text if os.path.exists(text) else text.partition(" ")[0]), text


def load(
    image: Image,
    memory: GuestMemory,
    *,
    cmdline: str = "",
    modules: Iterable[Source] = (),
    reserved: Iterable[Region] = (),
    fresh: bool = True,
) -> CpuState:
    """Load the kernel with all it is told; return the state of the first vCPU.

    ``modules`` are paths, texts as `split_module` takes, or bytes; they lie after the kernel, in
    their order, each on a page. The command line that the kernel gets begins with its own file's
    name, as with QEMU. ``fresh`` says that guest memory has never been written (`elf.load`). Raise
    `ImageError` for a bad image, `HostError` for a module that cannot be read, `ConfigError` when
    something does not fit.
    """
    kernel = parse(image)
    low_end = low_memory_end(memory)
    if kernel.end > low_end:
        raise ConfigError(
            f"{image.name} occupies memory up to {mib(kernel.end)} MiB, and the guest has "
            f"{mib(low_end)} MiB below the device hole; give it more memory"
        )
    placed = _load_modules(memory, modules, kernel.end, low_end)
    elf.load(image, memory, kernel.segments, fresh=fresh)
    words = encode_line(" ".join(filter(None, (image.path, cmdline))))
    report = _Report(words, placed, e820.build(memory.ram, reserved))
    base = _free_place(kernel, report.size, image.name)
    memory.write(base, report.pack(base, low_end))
    gdt_base = base + report.gdt
    return CpuState(
        mode="protected",
        rip=kernel.entry,
        rax=_LOADER_MAGIC,
        rbx=base,
        gdt_base=segments.write_gdt(memory, long_mode=False, at=gdt_base),
        gdt_limit=segments.GDT_LIMIT,
    )


def _load_modules(
    memory: GuestMemory, sources: Iterable[Source], floor: int, ceiling: int
) -> list[Module]:
    opened: list[tuple[Image, bytes]] = []
    try:
        for source in sources:
            string = ""
            if isinstance(source, (str, os.PathLike)):
                source, string = split_module(os.fspath(source))
            opened.append((Image(source, "module"), encode_line(string)))
        return _place(memory, opened, floor, ceiling)
    finally:
        for image, _ in opened:
            image.close()


def _place(
    memory: GuestMemory, opened: Sequence[tuple[Image, bytes]], floor: int, ceiling: int
) -> list[Module]:
    placed = []
    for image, string in opened:
        start = align_up(floor, PAGE_SIZE)
        floor = start + image.size
        if floor > ceiling:
            raise ConfigError(
                f"{image.name} of {mib(image.size)} MiB does not fit between {mib(start)} MiB and "
                f"the end of the guest's low memory, {mib(ceiling)} MiB; give it more memory"
            )
        with memory.view(start, image.size) as view:
            image.read_into(0, view)
        placed.append(Module(start, floor, string))
    return placed


class _Report:
    """The block of memory that tells the kernel all: information structure, tables, strings, a GDT."""

    def __init__(self, words: bytes, modules: Sequence[Module], memmap: Sequence[Entry]) -> None:
        self.words, self.modules, self.memmap = words, modules, memmap
        self.map_at = _INFO.size
        self.modules_at = self.map_at + _MEMMAP.size * len(memmap)
        self.strings_at = self.modules_at + _MODULE.size * len(modules)
        texts = (_LOADER_NAME, words, *(module.string for module in modules))
        self.gdt = align_up(self.strings_at + sum(map(len, texts)), 16)
        self.size = self.gdt + segments.GDT_LIMIT + 1

    def pack(self, base: int, low_end: int) -> bytes:
        """Return the block as it lies at ``base``, without the GDT; RAM from address 0 ends at
        ``low_end``.
        """
        words_at = base + self.strings_at + len(_LOADER_NAME)
        info = _INFO.pack(
            _INFO_FLAGS,
            EBDA >> 10,
            (low_end - HIGH_MEMORY) >> 10,
            0,
            words_at,
            len(self.modules),
            base + self.modules_at,
            _MEMMAP.size * len(self.memmap),
            base + self.map_at,
            0,
            0,
            0,
            base + self.strings_at,
        )
        # The size of an entry does not count the field that states it.
        rows = [_MEMMAP.pack(_MEMMAP.size - 4, *entry) for entry in self.memmap]
        strings = [_LOADER_NAME, self.words]
        at = words_at + len(self.words)
        for module in self.modules:
            rows.append(_MODULE.pack(module.start, module.end, at, 0))
            strings.append(module.string)
            at += len(module.string)
        return b"".join((info, *rows, *strings))


def _free_place(kernel: Kernel, size: int, name: str) -> int:
    """Return the highest page below the EBDA from which ``size`` bytes are free of the kernel."""
    ends = [EBDA, *(part.paddr for part in kernel.segments if part.paddr <= EBDA)]
    for end in sorted(ends, reverse=True):
        start = (end - size) & -PAGE_SIZE
        if start >= _LOWEST and not any(
            part.paddr < start + size and start < part.end for part in kernel.segments
        ):
            return start
    raise ConfigError(
        f"{name}: the command line, the strings of its modules and the memory map take {size} bytes, "
        "and there is no room for them below 639 KiB; shorten them, or link the kernel at 1 MiB"
    )
