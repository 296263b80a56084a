# SPDX-License-Identifier: Apache-2.0
"""ELF files of kernels, 32 and 64 bits: their segments, their entry point and their notes.

The parser reads the file's header and the program headers and nothing else, with `struct` alone: it
runs at every launch. The protocols that start such a kernel are in `pvh` and `multiboot`.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from pyvmm.boot.layout import clear
from pyvmm.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NamedTuple

    from pyvmm.boot.image import Image
    from pyvmm.machine.memory import GuestMemory
else:
    from pyvmm.record import NamedTuple

_IDENT_SIZE = 16
#: After the identification: type, machine, version, entry, program and section headers' offsets, flags,
#: sizes and counts. By ELF class.
_EHDR = {1: struct.Struct("<HHIIIIIHHHHHH"), 2: struct.Struct("<HHIQQQIHHHHHH")}
#: 32 bits: type, offset, vaddr, paddr, filesz, memsz, flags, align. 64 bits: the flags come second.
_PHDR = {1: struct.Struct("<IIIIIIII"), 2: struct.Struct("<IIQQQQQQ")}
_NHDR = struct.Struct("<III")
_CLASS32, _CLASS64, _LITTLE_ENDIAN = 1, 2, 1
_I386, _X86_64 = 3, 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
#: More program headers, or more bytes of notes, than any kernel has.
_MAX_PHDRS = 256
_MAX_NOTES = 1 << 20

_TYPES = {1: "an object file or kernel module", 4: "a core dump"}
_MACHINES = {
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC",
    22: "s390",
    40: "ARM",
    183: "ARM64",
    243: "RISC-V",
    258: "LoongArch",
}


class Segment(NamedTuple):
    """A part of the file that belongs in memory: ``filesz`` bytes at ``offset``, then zeros to
    ``memsz``.
    """

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int

    @property
    def end(self) -> int:
        """The first guest-physical address after it."""
        return self.paddr + self.memsz


class Header(NamedTuple):
    """A program header, of either class: where its part lies in the file, in bytes."""

    kind: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class Elf(NamedTuple):
    """The parts of the file that a loader needs: ``segments`` by ascending address, disjoint.

    ``entry`` is the file's own entry point, a virtual address. ``notes`` are the headers of its
    notes, for `notes_of`.
    """

    bits: int
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[Header, ...]


def parse(image: Image) -> Elf:
    """Read and check the headers (System V ABI, "ELF Header" and "Program Header").

    Raise `ImageError`, which says what is wrong and what to do.
    """
    elf_class, entry, headers = _headers(image)
    loads: list[Segment] = []
    notes: list[Header] = []
    for header in headers:
        if header.kind == _PT_LOAD and header.memsz:
            loads.append(_segment(image, header))
        elif header.kind == _PT_INTERP:
            raise ImageError(f"{image.name} is a program for user space; give a kernel's vmlinux")
        elif header.kind == _PT_NOTE:
            notes.append(header)
    size = sum(header.filesz for header in notes)
    if size > _MAX_NOTES:
        # All of them together, as headers may all say the same bytes.
        raise ImageError(f"{image.name} is malformed: {size} bytes of notes")
    if not loads:
        raise ImageError(f"{image.name} is malformed: it has nothing to load into memory")
    loads.sort(key=lambda segment: segment.paddr)
    for lower, upper in pairwise(loads):
        if lower.end > upper.paddr:
            raise ImageError(f"{image.name} is malformed: segments overlap at {upper.paddr:#x}")
    return Elf(32 * elf_class, entry, tuple(loads), tuple(notes))


def _headers(image: Image) -> tuple[int, int, list[Header]]:
    """Return the class (1: 32 bits, 2: 64 bits), the entry point, and the program headers."""
    if image.size < _IDENT_SIZE:
        raise _truncated(image)
    ident = image.read(0, _IDENT_SIZE)
    elf_class = _check_ident(ident, image.name)
    ehdr, phdr = _EHDR[elf_class], _PHDR[elf_class]
    if image.size < _IDENT_SIZE + ehdr.size:
        raise _truncated(image)
    fields = ehdr.unpack(image.read(_IDENT_SIZE, ehdr.size))
    kind, machine, _, entry, table, _, _, _, size, count, *_ = fields
    _check_kind(elf_class, kind, machine, image.name)
    if size != phdr.size or not 1 <= count <= _MAX_PHDRS:
        raise ImageError(
            f"{image.name} is malformed: {count} program headers of {size} bytes; "
            f"a kernel has 1 to {_MAX_PHDRS} of {phdr.size}"
        )
    headers = []
    for row in phdr.iter_unpack(image.read(table, size * count)):
        flags = 6 if elf_class == _CLASS32 else 1
        headers.append(Header(*row[:flags], *row[flags + 1 :]))
    return elf_class, entry, headers


def _truncated(image: Image) -> ImageError:
    return ImageError(
        f"{image.name} is truncated: {image.size} bytes do not hold an ELF header; "
        "copy or build it again"
    )


def _check_ident(ident: bytes, name: str) -> int:
    """Return the class; `ImageError` for what is no little-endian ELF file."""
    if ident[:4] != b"\x7fELF":
        raise ImageError(f"{name} is not an ELF file")
    if ident[5] != _LITTLE_ENDIAN:
        raise ImageError(f"{name} is a big-endian ELF file; give an x86 kernel")
    if ident[4] not in _EHDR:
        raise ImageError(f"{name} is malformed: there is no ELF class {ident[4]}")
    return ident[4]


def _check_kind(elf_class: int, kind: int, machine: int, name: str) -> None:
    """Refuse what is not an x86 executable."""
    if (elf_class, machine) not in ((_CLASS64, _X86_64), (_CLASS32, _I386)):
        what = _MACHINES.get(machine, f"machine {machine}")
        if machine in (_X86_64, _I386):
            what = "x86-64 in 32-bit form (x32)" if machine == _X86_64 else "a 64-bit i386"
        raise ImageError(f"{name} is an ELF file for {what}; give an x86-64 or i386 kernel")
    if kind not in (_ET_EXEC, _ET_DYN):
        what = _TYPES.get(kind, f"an ELF file of type {kind}")
        raise ImageError(f"{name} is {what}; give the linked kernel, vmlinux")


def _segment(image: Image, header: Header) -> Segment:
    _, offset, vaddr, paddr, filesz, memsz, _ = header
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
    return Segment(offset, vaddr, paddr, filesz, memsz)


def notes_of(image: Image, header: Header) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield owner, type and value of each note that a PT_NOTE header covers."""
    size = header.filesz
    notes = image.read(header.offset, size)
    pad = 7 if header.align == 8 else 3
    at = 0
    while at + _NHDR.size <= size:
        name_size, value_size, kind = _NHDR.unpack_from(notes, at)
        name_at = at + _NHDR.size
        value_at = (name_at + name_size + pad) & ~pad
        at = (value_at + value_size + pad) & ~pad
        if value_at + value_size > size:
            raise ImageError(f"{image.name} is malformed: a note reaches beyond its segment")
        yield (
            notes[name_at : name_at + name_size],
            kind,
            notes[value_at : value_at + value_size],
        )


def load(image: Image, memory: GuestMemory, segments: Iterable[Segment], *, fresh: bool) -> None:
    """Put the segments into guest memory, in which they must lie.

    ``fresh`` says that guest memory has never been written, so that it is zero where a segment's
    file part ends (the bss); otherwise that is cleared here.
    """
    for segment in segments:
        with memory.view(segment.paddr, segment.filesz) as view:
            image.read_into(segment.offset, view)
        if segment.memsz > segment.filesz and not fresh:
            clear(memory, segment.paddr + segment.filesz, segment.memsz - segment.filesz)
