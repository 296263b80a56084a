# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from pyvmm.boot import pvh
from pyvmm.boot.image import Image
from pyvmm.errors import ConfigError, ImageError
from tests.support import images as support
from tests.support.images import GIB, MIB, FakeMemory, Load, Region

#: A segment that begins with a header of Multiboot 2, at a multiple of 8 in the file.
MULTIBOOT2 = Load(16 * MIB, struct.pack("<IIII", 0xE85250D6, 0, 16, 0x17ADAF1A))


def load(data: bytes, memory: FakeMemory, **options):
    with Image(data, "kernel") as image:
        return pvh.load(image, memory, **options)


def phdr(kind: int, offset: int = 0, size: int = 0) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, offset, 0, 0, size, size, 1)


def test_start_state() -> None:
    memory = FakeMemory()
    state = load(support.vmlinux(notes=support.pvh_note(16 * MIB + 16)), memory)
    assert state.mode == "protected"
    assert state.rip == 16 * MIB + 16
    assert state.rbx == 0x6000
    assert state.cr3 == 0
    table = struct.unpack("<4Q", memory.read(state.gdt_base, state.gdt_limit + 1))
    assert table == (0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)


def test_start_info() -> None:
    memory = FakeMemory(high=16 * MIB)
    state = load(
        support.vmlinux(),
        memory,
        cmdline="quiet",
        initrd_parts=[b"12345", b"678"],
        rsdp=0xE0000,
        reserved=[Region(8 * GIB, GIB)],
    )
    info = struct.unpack("<IIIIQQQQII", memory.read(state.rbx, 56))
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, entries, reserved = info
    assert (magic, version, flags, reserved) == (0x336EC578, 1, 0, 0)
    assert rsdp == 0xE0000
    assert memory.read(cmdline, 6) == b"quiet\0"
    assert modules == 1
    paddr, size, *rest = struct.unpack("<4Q", memory.read(modlist, 32))
    assert rest == [0, 0]
    assert memory.read(paddr, size) == b"12345" + bytes(7) + b"678"
    table = [struct.unpack("<QQII", memory.read(memmap + 24 * i, 24)) for i in range(entries)]
    assert table == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x60400, 2, 0),
        (MIB, 63 * MIB, 1, 0),
        (4 * GIB, 16 * MIB, 1, 0),
        (8 * GIB, GIB, 2, 0),
    ]


def test_no_initrd_is_no_module() -> None:
    memory = FakeMemory()
    state = load(support.vmlinux(), memory)
    assert struct.unpack_from("<IQ", memory.read(state.rbx, 56), 12) == (0, 0)


def test_segments_and_bss() -> None:
    loads = (Load(16 * MIB, b"text" * 100, 4096), Load(17 * MIB, b"data", 200_000))
    memory = FakeMemory(fill=0xAA)
    load(support.vmlinux(loads), memory, fresh=False)
    assert memory.read(16 * MIB, 4096) == b"text" * 100 + bytes(4096 - 400)
    assert memory.read(17 * MIB, 200_000) == b"data" + bytes(200_000 - 4)
    assert memory.read(17 * MIB + 200_000, 1) == b"\xaa"


def test_fresh_memory_is_not_cleared() -> None:
    memory = FakeMemory(fill=0xAA)
    load(support.vmlinux(), memory)
    assert memory.read(16 * MIB + 512, 1) == b"\xaa"


@pytest.mark.parametrize("fresh", [True, False])
def test_segment_up_to_the_end_of_ram(fresh: bool) -> None:
    memory = FakeMemory()
    load(support.vmlinux((Load(64 * MIB - 512, b"x" * 512),)), memory, fresh=fresh)
    assert memory.read(64 * MIB - 512, 512) == b"x" * 512


def test_segment_that_is_all_bss() -> None:
    loads = (Load(16 * MIB, b"\xf4"), Load(32 * MIB, b"", 32 * MIB))
    memory = FakeMemory(fill=1)
    load(support.vmlinux(loads), memory, fresh=False)
    assert not any(memory.read(32 * MIB, 32 * MIB))


def test_a_32_bit_kernel() -> None:
    """PVH enters in 32-bit protected mode anyhow."""
    loads = (Load(MIB, b"text" * 100, 4096), Load(3 * MIB, b"data", 5000))
    data = support.vmlinux(loads, support.pvh_note(MIB + 16, 4), bits=32)
    memory = FakeMemory(fill=0xAA)
    state = load(data, memory, fresh=False, initrd_parts=[b"abc"], cmdline="quiet")
    assert (state.mode, state.rip, state.rbx) == ("protected", MIB + 16, 0x6000)
    assert memory.read(MIB, 4096) == b"text" * 100 + bytes(4096 - 400)
    assert memory.read(3 * MIB, 5000) == b"data" + bytes(5000 - 4)
    assert memory.read(3 * MIB + 5000, 1) == b"\xaa"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phentsize": 56}, "program headers of 56 bytes"),
        ({"machine": 40}, "for ARM"),
        ({"notes": b""}, "CONFIG_PVH=y"),
        ({"kind": 1}, "module"),
    ],
)
def test_bad_32_bit_files(changes, message) -> None:
    with pytest.raises(ImageError, match=message):
        load(support.vmlinux(bits=32, **changes), FakeMemory())


@pytest.mark.parametrize("width", [4, 8])
def test_note_after_others(width: int) -> None:
    notes = (
        support.note(b"GNU\0", 3, b"build-id-of-odd-len")
        + support.note(b"Linux\0", 18, b"1234")
        + support.note(b"Xen\0", 5, b"linux\0")
        + support.pvh_note(16 * MIB + 4, width)
    )
    assert load(support.vmlinux(notes=notes), FakeMemory()).rip == 16 * MIB + 4


def test_notes_aligned_to_eight() -> None:
    notes = support.note(b"GNU\0", 5, b"x" * 20, 8) + support.pvh_note(16 * MIB + 8)
    data = support.vmlinux(notes=notes, note_align=8)
    assert load(data, FakeMemory()).rip == 16 * MIB + 8


def test_other_headers_are_ignored() -> None:
    data = support.vmlinux(extra=(phdr(0x6474E551), phdr(7, 1 << 60, 1 << 60)))
    assert load(data, FakeMemory()).rip == 16 * MIB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elf_class": 2, "machine": 3}, "64-bit i386"),
        ({"elf_class": 3}, "class 3"),
        ({"elf_class": 1}, "x32"),
        ({"machine": 183}, "ARM64"),
        ({"machine": 9999}, "machine 9999"),
        ({"endianness": 2}, "big-endian"),
        ({"kind": 1}, "module"),
        ({"kind": 4}, "core dump"),
        ({"kind": 77}, "type 77"),
        ({"phentsize": 32}, "program headers"),
        ({"loads": (), "notes": b"x"}, "nothing to load"),
        ({"notes": b""}, "CONFIG_PVH=y"),
        ({"notes": b"", "loads": (MULTIBOOT2,)}, "Multiboot 2"),
        ({"notes": support.note(b"Xen\0", 6, b"generic\0")}, "CONFIG_PVH=y"),
        ({"notes": support.pvh_note(16 * MIB)[:-1]}, "note reaches"),
        ({"notes": struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 18)}, "note reaches"),
        ({"notes": support.pvh_note(1 << 40)}, "32-bit address"),
        ({"notes": support.note(b"Xen\0", 18, b"12")}, "32-bit address"),
        ({"notes": support.pvh_note(MIB)}, "in no segment"),
        ({"notes": support.pvh_note(16 * MIB + 512)}, "in no segment"),
        ({"notes": bytes((1 << 20) + 1)}, "bytes of notes"),
        ({"extra": (phdr(3),)}, "user space"),
        ({"extra": (phdr(0),) * 300}, "program headers"),
        ({"loads": (Load(0x1000, b"x"),)}, "1 MiB up"),
        ({"loads": (Load(16 * MIB, b"x" * 32, 16),)}, "in the file"),
        (
            {"loads": (Load(16 * MIB, b"x", 4096), Load(16 * MIB + 4095, b"y"))},
            "segments overlap",
        ),
    ],
)
def test_bad_files(changes, message) -> None:
    with pytest.raises(ImageError, match=message):
        load(support.vmlinux(**changes), FakeMemory())


@pytest.mark.parametrize("size", [4, 63, 64, 100, 64 + 2 * 56, 500])
def test_truncated(size: int) -> None:
    with pytest.raises(ImageError, match="truncated"):
        load(support.vmlinux()[:size], FakeMemory())


@pytest.mark.parametrize(
    "loads",
    [
        (Load(16 * MIB, b"x", 48 * MIB + 1),),
        (Load(16 * MIB, b"x"), Load((1 << 64) - 1, b"x", 1)),
        (Load(16 * MIB, b"x", (1 << 64) - 1),),
    ],
)
def test_kernel_that_does_not_fit(loads) -> None:
    with pytest.raises(ConfigError, match="more memory"):
        load(support.vmlinux(loads), FakeMemory())


def test_initrd_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="initrd"):
        load(support.vmlinux(), FakeMemory(), initrd_parts=[bytes(48 * MIB)])


def test_command_line_limit() -> None:
    load(support.vmlinux(), FakeMemory(), cmdline="a" * 2047)
    with pytest.raises(ConfigError, match="at most 2047"):
        load(support.vmlinux(), FakeMemory(), cmdline="a" * 2048)


def test_too_many_reserved_regions() -> None:
    reserved = [Region((i + 5) * GIB, MIB) for i in range(125)]
    with pytest.raises(ConfigError, match="reserve fewer"):
        load(support.vmlinux(), FakeMemory(), reserved=reserved)
    # The largest map that is taken must not reach the zero page's place.
    memory = FakeMemory()
    load(support.vmlinux(), memory, reserved=reserved[:124])
    assert not any(memory.read(0x7000, 4096))


class Counted(Image):
    """Counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "kernel")
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read(offset, length)


@pytest.mark.parametrize("notes", [bytes(1 << 20), bytes(100)], ids=["a MiB", "100 bytes"])
def test_many_headers_over_the_same_notes(notes: bytes) -> None:
    """Each would be read again, and a MiB of nothing is 87,000 notes."""
    count = 250
    at = (64 + 56 * (count + 2) + 7) & ~7
    again = support.program_header(64, 4, at, 0, 0, len(notes), len(notes), 4)
    image = Counted(support.vmlinux(notes=notes, extra=(again,) * count))
    with pytest.raises(ImageError, match=r"bytes of notes|CONFIG_PVH=y"):
        pvh.load(image, FakeMemory())  # type: ignore[arg-type]
    assert image.bytes_read < 2 << 20
