# SPDX-License-Identifier: Apache-2.0
"""What the tests of the boot layer share: guest memory made of bytearrays, and images made of bytes."""

from __future__ import annotations

import glob
import os
import struct
from typing import NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.errors import GuestMemoryError

MIB = 1 << 20
GIB = 1 << 30


class Region(NamedTuple):
    gpa: int
    size: int


def cached_kernels(name: str) -> list[str]:
    """Kernels whose file name matches, among those that pyvmm built or fetched on this machine."""
    patterns = (f"guest/*/{name}", f"debian/*/boot/{name}")
    found = [path for pattern in patterns for path in glob.glob(f"{cache_root()}/{pattern}")]
    return sorted(path for path in found if os.path.getsize(path) > MIB)


class FakeMemory:
    """The interface of `pyvmm.machine.memory.GuestMemory`, without KVM and without the extension."""

    def __init__(self, size: int = 64 * MIB, *, high: int = 0, fill: int = 0) -> None:
        regions = [Region(0, size)]
        self._bytes = [bytearray([fill]) * size]
        if high:
            regions.append(Region(4 * GIB, high))
            self._bytes.append(bytearray([fill]) * high)
        self.ram = tuple(regions)
        self.size = size + high

    def view(self, gpa: int, length: int) -> memoryview:
        for region, data in zip(self.ram, self._bytes, strict=True):
            if region.gpa <= gpa < region.gpa + region.size and (
                0 <= length <= region.gpa + region.size - gpa
            ):
                start = gpa - region.gpa
                return memoryview(data)[start : start + length]
        raise GuestMemoryError(f"{gpa:#x} + {length:#x}")

    def read(self, gpa: int, length: int) -> bytes:
        return bytes(self.view(gpa, length))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self.view(gpa, len(data))[:] = data


def bzimage(
    payload: bytes = b"\xf4" * 4096,
    *,
    setup_sects: int = 4,
    version: int = 0x020F,
    pref_address: int = 16 * MIB,
    init_size: int = 8 * MIB,
    alignment: int = 2 * MIB,
    relocatable: int = 1,
    loadflags: int = 1,
    xloadflags: int = 1,
    cmdline_size: int = 2047,
    initrd_addr_max: int = 0x7FFFFFFF,
    boot_flag: int = 0xAA55,
    magic: bytes = b"HdrS",
    jump: bytes = b"\xeb\x6a",
) -> bytes:
    """A bzImage with this header; the payload is what a guest would execute."""
    setup = bytearray((setup_sects or 4) * 512 + 512)
    setup[0x1F1] = setup_sects
    struct.pack_into("<I", setup, 0x1F4, len(payload) // 16)
    struct.pack_into("<H2s4sH", setup, 0x1FE, boot_flag, jump, magic, version)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, initrd_addr_max)
    struct.pack_into("<IBBHI", setup, 0x230, alignment, relocatable, 21, xloadflags, cmdline_size)
    struct.pack_into("<QI", setup, 0x258, pref_address, init_size)
    return bytes(setup) + payload


class Load(NamedTuple):
    """A PT_LOAD segment for `vmlinux`."""

    paddr: int
    data: bytes
    memsz: int = -1


def note(owner: bytes, kind: int, value: bytes, pad: int = 4) -> bytes:
    data = struct.pack("<III", len(owner), len(value), kind) + owner
    data += bytes(-len(data) % pad) + value
    return data + bytes(-len(data) % pad)


def pvh_note(entry: int, width: int = 8) -> bytes:
    return note(b"Xen\0", 18, entry.to_bytes(width, "little"))


def multiboot_header(flags: int = 0) -> bytes:
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)


def vmlinux(
    loads: tuple[Load, ...] = (Load(16 * MIB, b"\xf4" * 512, 8192),),
    notes: bytes | None = None,
    *,
    bits: int = 64,
    note_align: int = 4,
    elf_class: int | None = None,
    endianness: int = 1,
    machine: int | None = None,
    kind: int = 2,
    phentsize: int | None = None,
    entry: int | None = None,
    virtual: int = 0,
    extra: tuple[bytes, ...] = (),
) -> bytes:
    """An ELF kernel with these segments and, by default, a PVH note for the first segment's start.

    Virtual addresses are `virtual` above the physical ones; `entry` is the file's own entry point.
    """
    if notes is None:
        notes = pvh_note(loads[0].paddr, bits // 8)
    if entry is None:
        entry = loads[0].paddr + virtual if loads else 0
    head_size, program_size = (64, 56) if bits == 64 else (52, 32)
    count = len(loads) + 1 + len(extra)
    # A multiple of 8, as linkers do it.
    offset = (head_size + program_size * count + 7) & ~7
    headers = [*extra, program_header(bits, 4, offset, 0, 0, len(notes), len(notes), note_align)]
    body = notes + bytes(-len(notes) % 8)
    for load in loads:
        memsz = len(load.data) if load.memsz < 0 else load.memsz
        place = load.paddr + virtual, load.paddr
        at = offset + len(body)
        headers.append(program_header(bits, 1, at, *place, len(load.data), memsz, 4096))
        body += load.data + bytes(-len(load.data) % 8)
    ident = b"\x7fELF" + bytes((elf_class or bits // 32, endianness, 1)) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH" if bits == 64 else "<16sHHIIIIIHHHHHH",
        ident,
        kind,
        machine or (62 if bits == 64 else 3),
        1,
        entry,
        head_size,
        0,
        0,
        head_size,
        program_size if phentsize is None else phentsize,
        count,
        0,
        0,
        0,
    )
    return (header + b"".join(headers)).ljust(offset, b"\0") + body


def program_header(
    bits: int, kind: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int, align: int
) -> bytes:
    if bits == 64:
        return struct.pack("<IIQQQQQQ", kind, 7, offset, vaddr, paddr, filesz, memsz, align)
    return struct.pack("<IIIIIIII", kind, offset, vaddr, paddr, filesz, memsz, 7, align)
