# SPDX-License-Identifier: Apache-2.0
"""The files that Bochs boots: an option ROM, and a disk with kernel, initramfs and parameters for
it.

Bochs takes no kernel. A boot loader in real mode would read by the BIOS and have the kernel unpack
itself; a ROM of a few instructions (rom.S) reads the ELF kernel to where it runs, and enters it by
PVH.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.boot import pvh
from pyvmm.boot.image import Image
from pyvmm.debian import tools
from pyvmm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROM = Path(__file__).with_name("rom.S")
ROM_ADDRESS = 0xD0000
ROM_SIZE = 1024
SECTOR = 512
#: A disk is whole cylinders of 16 heads with 63 sectors.
CYLINDER = 16 * 63 * SECTOR
LARGEST = (1 << 28) * SECTOR
PARAMETERS = 0x10000  # address of the page that tells the kernel what it has to know
START_INFO, MAP, MODULE, WORDS = 0, 0x80, 0x180, 0x200  # in it
PAGE = 4096
INITRAMFS = 0x4000000  # 64 MiB, above any kernel
#: The BIOS keeps its tables at the end of memory.
BIOS_TABLES = 1 << 20
MAGIC = 0x336EC578
RAM, RESERVED = 1, 2
LOW_END, BIOS, HIGH = 0x9FC00, 0xE0000, 0x100000


class Flat(NamedTuple):
    """A kernel as it lies in memory."""

    image: bytes
    base: int
    entry: int


def flat(path: Path) -> Flat:
    """Return the segments of an ELF kernel put together; what is zero beyond them the machine's
    memory is already.

    Raise ImageError for a kernel without a PVH note.
    """
    with Image(path, "outer kernel") as file:
        kernel = pvh.parse(file)
        base = kernel.segments[0].paddr
        image = bytearray(max(one.paddr + one.filesz for one in kernel.segments) - base)
        for one in kernel.segments:
            start = one.paddr - base
            image[start : start + one.filesz] = file.read(one.offset, one.filesz)
    if kernel.end > INITRAMFS:
        raise ConfigError(f"the outer kernel ends at {kernel.end:#x}, beyond {INITRAMFS:#x}")
    return Flat(bytes(image), base, kernel.entry)


def code(folder: Path) -> bytes:
    """Return the machine code of the ROM, made in ``folder``."""
    made, linked = folder / "rom.o", folder / "rom"
    values = {"BASE": ROM_ADDRESS, "SIZE": ROM_SIZE, "START_INFO": PARAMETERS + START_INFO}
    words = [f"-D{name}={value:#x}" for name, value in values.items()]
    what = "assembling the lab's option ROM"
    tools.run(["gcc", "-m32", "-c", *words, "-o", made, ROM], what=what)
    tools.run(["objcopy", "-O", "binary", "-j", ".text", made, linked], what=what)
    data = linked.read_bytes()
    made.unlink()
    linked.unlink()
    return data


def parameters(words: str, initramfs: int, memory: int) -> bytes:
    """Return the page for the kernel: struct hvm_start_info and what it points to. Sizes in bytes.

    Raise ConfigError if the command line is too long for it.
    """
    page = bytearray(PAGE)
    areas = [
        (0, LOW_END, RAM),
        (LOW_END, 0xA0000, RESERVED),
        (BIOS, HIGH, RESERVED),
        (HIGH, memory - BIOS_TABLES, RAM),
        (memory - BIOS_TABLES, memory, RESERVED),
    ]
    for number, (start, end, kind) in enumerate(areas):
        struct.pack_into("<QQII", page, MAP + 24 * number, start, end - start, kind, 0)
    struct.pack_into("<QQQQ", page, MODULE, INITRAMFS, initramfs, 0, 0)
    text = words.encode() + b"\0"
    if WORDS + len(text) > PAGE:
        raise ConfigError("the outer kernel's command line is too long")
    page[WORDS : WORDS + len(text)] = text
    head = (MAGIC, 1, 0, 1, PARAMETERS + MODULE, PARAMETERS + WORDS, 0)
    struct.pack_into("<IIIIQQQQII", page, START_INFO, *head, PARAMETERS + MAP, len(areas), 0)
    return bytes(page)


def padded(data: bytes) -> int:
    """Return the sectors of 512 bytes that it takes."""
    return -(-len(data) // SECTOR)


class Boot(NamedTuple):
    """The ROM, and the parts of the disk in their order; each begins on a sector, which padding
    sees to.
    """

    rom: bytes
    parts: list[bytes]


def boot(kernel: Flat, rom: bytes, words: str, initramfs: Sequence[bytes], memory: int) -> Boot:
    """Lay the disk out.

    ``initramfs`` is archives, one after the other; ``memory`` is the machine's, in bytes.
    """
    size = sum(map(len, initramfs))
    if INITRAMFS + size > memory - BIOS_TABLES:
        raise ConfigError(f"{size >> 20} MiB of files do not fit into {memory >> 20} MiB of memory")
    page = parameters(words, size, memory)
    sectors = [padded(kernel.image), -(-size // SECTOR), padded(page)]
    addresses = [kernel.base, INITRAMFS, PARAMETERS]
    loads, at = b"", 0
    for count, address in zip(sectors, addresses, strict=True):
        loads += struct.pack("<III", count, at, address)
        at += count
    parts = [kernel.image, filler(len(kernel.image)), *initramfs, filler(size), page]
    parts.append(bytes(-at * SECTOR % CYLINDER))
    return Boot(signed(rom + loads + struct.pack("<III", 0, 0, kernel.entry)), parts)


def filler(size: int) -> bytes:
    """Return the zeros that fill the last sector behind so many bytes."""
    return bytes(-size % SECTOR)


def signed(rom: bytes) -> bytes:
    """Return the ROM at its full size, with the byte that makes the sum of all zero."""
    assert len(rom) < ROM_SIZE
    full = rom + bytes(ROM_SIZE - 1 - len(rom))
    return full + bytes([-sum(full) & 0xFF])
