# SPDX-License-Identifier: Apache-2.0
"""Kernels with a Multiboot header: where it is found, both layouts, and what the kernel is told."""

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot import multiboot
from pyvmm.boot.image import Image
from pyvmm.boot.load import load_kernel
from pyvmm.errors import ConfigError, HostError, ImageError
from tests.support import images as support
from tests.support.images import GIB, MIB, FakeMemory, Load, Region

CODE = b"\xf4" * 100


def load(data: bytes, memory: FakeMemory, **options):
    with Image(data, "kernel") as image:
        return multiboot.load(image, memory, **options)


def aout(
    *,
    before: int = 0,
    flags: int = 0,
    load_addr: int = MIB,
    header_addr: int | None = None,
    load_end: int = 0,
    bss_end: int = 0,
    entry: int | None = None,
    code: bytes = CODE,
) -> bytes:
    """A file without a format, whose header has the addresses."""
    place = load_addr + before if header_addr is None else header_addr
    start = load_addr + before + 32 if entry is None else entry
    fields = struct.pack("<IIIII", place, load_addr, load_end, bss_end, start)
    return bytes(before) + support.multiboot_header(flags | 1 << 16) + fields + code


def elf(bits: int = 32, *, flags: int = 0, address: int = MIB, **options) -> bytes:
    """An ELF kernel with a header at the beginning of its first segment."""
    data = support.multiboot_header(flags) + CODE
    options.setdefault("entry", address + options.get("virtual", 0) + 12)
    return support.vmlinux((Load(address, data, 4096),), b"", bits=bits, **options)


class Told(NamedTuple):
    """The information structure, as a kernel reads it."""

    lower: int
    upper: int
    words: bytes
    modules: list[tuple[int, int, bytes]]
    memmap: list[tuple[int, int, int]]
    loader: bytes


def text(memory: FakeMemory, at: int) -> bytes:
    end = at
    while memory.read(end, 1) != b"\0":
        end += 1
    return memory.read(at, end - at)


def told(memory: FakeMemory, state) -> Told:
    fields = struct.unpack("<22I", memory.read(state.rbx, 88))
    assert fields[0] == 0b10_0100_1101
    count, table = fields[5:7]
    modules = []
    for number in range(count):
        start, end, string, zero = struct.unpack("<4I", memory.read(table + 16 * number, 16))
        assert zero == 0
        modules.append((start, end, text(memory, string)))
    size, at = fields[11:13]
    memmap = []
    end = at + size
    while at < end:
        step, *row = struct.unpack("<IQQI", memory.read(at, 24))
        memmap.append(tuple(row))
        at += step + 4
    assert at == end
    return Told(
        fields[1],
        fields[2],
        text(memory, fields[4]),
        modules,
        memmap,
        text(memory, fields[16]),
    )


@pytest.mark.parametrize("data", [aout(), elf(), elf(64)])
def test_start_state(data: bytes) -> None:
    memory = FakeMemory()
    state = load(data, memory)
    assert (state.mode, state.rax, state.cr3) == ("protected", 0x2BADB002, 0)
    assert memory.read(state.rip, len(CODE)) == CODE
    table = struct.unpack("<4Q", memory.read(state.gdt_base, state.gdt_limit + 1))
    assert table == (0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)


def test_all_that_a_kernel_is_told(tmp_path) -> None:
    memory = FakeMemory(high=16 * MIB)
    kernel, first = tmp_path / "kernel", tmp_path / "first"
    kernel.write_bytes(elf())
    first.write_bytes(b"module" * 1000)
    state = load_kernel(
        kernel,
        memory,
        cmdline="smp=2 ä",
        initrd=[f"{first} with=words", b"second", str(first)],
        rsdp=0xE0000,
        reserved=[Region(8 * GIB, GIB)],
    )
    info = told(memory, state)
    assert (info.lower, info.upper) == (639, 63 * 1024)
    assert info.words == f"{kernel} smp=2 ä".encode()
    assert info.loader == b"pyvmm"
    starts = [MIB + 4096, MIB + 3 * 4096, MIB + 4 * 4096]
    assert [module[0] for module in info.modules] == starts
    assert [module[2].decode() for module in info.modules] == [
        f"{first} with=words",
        "",
        f"{first}",
    ]
    contents = [memory.read(start, end - start) for start, end, _ in info.modules]
    assert contents == [b"module" * 1000, b"second", b"module" * 1000]
    assert info.memmap == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x60400, 2),
        (MIB, 63 * MIB, 1),
        (4 * GIB, 16 * MIB, 1),
        (8 * GIB, GIB, 2),
    ]


def test_without_words_and_modules() -> None:
    memory = FakeMemory()
    info = told(memory, load(elf(), memory))
    assert (info.words, info.modules) == (b"", [])


def test_a_module_whose_name_has_a_space(tmp_path) -> None:
    memory = FakeMemory()
    (tmp_path / "a b").write_bytes(b"whole")
    info = told(memory, load(elf(), memory, modules=[tmp_path / "a b"]))
    (module,) = info.modules
    assert memory.read(module[0], 5) == b"whole"
    with pytest.raises(HostError, match="absent"):
        load(elf(), memory, modules=[f"{tmp_path}/absent word"])


def test_header_at_the_last_place() -> None:
    memory = FakeMemory()
    data = aout(before=8192 - 32)
    assert load(data, memory).rip == MIB + 8192
    assert memory.read(MIB, len(data)) == data
    with pytest.raises(ImageError, match="no Multiboot header"):
        load(aout(before=8192 - 28), memory)
    with pytest.raises(ImageError, match="no Multiboot header"):
        load(aout(before=2), memory)


def test_a_wrong_checksum_is_passed_over() -> None:
    memory = FakeMemory()
    false = struct.pack("<III", 0x1BADB002, 3, 0)
    assert load(false + aout(before=4), memory, modules=[]).rip


def test_addresses_of_a_part_of_the_file() -> None:
    """The text begins 16 bytes into the file and ends before it; zeros follow."""
    memory = FakeMemory(fill=0xAA)
    data = b"A" * 16 + aout(before=16, load_end=MIB + 100, bss_end=MIB + 8000)
    load(data, memory, fresh=False)
    assert memory.read(MIB, 100) == data[16:116]
    assert memory.read(MIB + 100, 7900) == bytes(7900)
    assert memory.read(MIB + 8000, 1) == b"\xaa"


def test_addresses_have_precedence_over_elf() -> None:
    """A 64-bit ELF file may say so how 32-bit loaders are to take it."""
    data = elf(64, address=16 * MIB)
    place = data.index(multiboot.MAGIC)
    addresses = struct.pack("<5I", 2 * MIB + place, 2 * MIB, 0, 0, 2 * MIB + place + 32)
    head = support.multiboot_header(1 << 16) + addresses
    data = data[:place] + head + data[place + len(head) :]
    memory = FakeMemory()
    assert load(data, memory).rip == 2 * MIB + place + 32
    assert memory.read(2 * MIB, len(data)) == data


def test_virtual_entry() -> None:
    """A kernel that lives high is entered where it lies, before there is paging."""
    memory = FakeMemory()
    assert load(elf(64, virtual=0xFFFFFFFF80000000), memory).rip == MIB + 12
    assert load(elf(32, virtual=0xC0000000), memory).rip == MIB + 12
    assert load(elf(64, virtual=0xFFFFFFFF80000000, entry=MIB + 12), memory).rip == MIB + 12


@pytest.mark.parametrize("address", [0, 0x1000, 0x4000, 0x90000])
def test_low_kernels(address: int) -> None:
    """A kernel in the first 640 KiB stays whole: what it is told goes elsewhere."""
    memory = FakeMemory()
    code = bytes(range(256)) * 200
    data = aout(load_addr=address, code=code)
    state = load(data, memory, cmdline="words", modules=[b"m"])
    assert memory.read(address, len(data)) == data
    info = told(memory, state)
    assert (info.words, len(info.modules)) == (b"words", 1)
    assert 0x1000 <= state.rbx < 0x9FC00


def test_no_room_for_the_words() -> None:
    code = bytes(0x9F000 - 0x3000)
    with pytest.raises(ConfigError, match="no room"):
        load(aout(load_addr=0x2000, code=code), FakeMemory(), cmdline="x" * 5000)
    with pytest.raises(ConfigError, match="NUL"):
        load(aout(), FakeMemory(), cmdline="x\0y")


def test_pages_and_sizes_and_a_video_mode_may_be_asked_for() -> None:
    """Modules lie on pages, sizes are told; a video mode is a wish, and the answer has none."""
    memory = FakeMemory()
    told(memory, load(elf(flags=0b111), memory))
    told(memory, load(aout(flags=0b111), memory))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf(flags=1 << 3), "flags 0x8"),
        (aout(flags=0x8100), "flags 0x8100"),
        (support.multiboot_header() + CODE, "no ELF file"),
        (elf(64, kind=1), "module"),
        (elf(machine=40), "ARM"),
        (elf(entry=MIB + 5000), "in no segment"),
        (elf(64, address=8 * GIB, entry=8 * GIB + 12), "reaches 4 GiB"),
        (aout(load_addr=0x9F000, code=bytes(0x2000)), "firmware's tables"),
        (aout(load_addr=0xE0000), "firmware's tables"),
        (aout(header_addr=MIB - 4, before=8), "malformed"),
        (aout(header_addr=MIB + 4), "malformed"),
        (aout(load_end=MIB + 5000), "truncated"),
        (aout(load_end=MIB), "malformed"),
        (aout(load_end=1), "malformed"),
        (aout(bss_end=MIB + 50), "malformed"),
        (aout(entry=MIB - 1), "entry point"),
        (aout(entry=MIB + 132, load_end=MIB + 132), "entry point"),
        (aout(entry=MIB + 200, bss_end=MIB + 4096), "entry point"),
    ],
)
def test_bad_files(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(data, FakeMemory())


def test_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="more memory"):
        load(aout(bss_end=64 * MIB + 1), FakeMemory())
    with pytest.raises(ConfigError, match="more memory"):
        load(aout(load_addr=0xFFFF0000, bss_end=0xFFFFFFFF), FakeMemory())
    with pytest.raises(ConfigError, match="module"):
        load(aout(), FakeMemory(), modules=[bytes(40 * MIB), bytes(30 * MIB)])


def test_the_kinds_are_told_apart(tmp_path) -> None:
    path = tmp_path / "kernel"
    for data, ax in ((aout(), 0x2BADB002), (elf(64), 0x2BADB002), (support.vmlinux(), 0)):
        path.write_bytes(data)
        assert load_kernel(path, FakeMemory()).rax == ax
    path.write_bytes(support.bzimage(support.multiboot_header() + bytes(4096)))
    assert load_kernel(path, FakeMemory()).mode == "long"


SMALL = FakeMemory(4 * MIB)
values = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(MIB - 64, MIB + 256),
    st.sampled_from([0, 1, 0xFFFFFFFF, 0x80000000]),
)


@given(st.tuples(values, values, values, values, values), st.integers(0, 40), st.integers(0, 300))
@settings(max_examples=400)
def test_any_addresses(fields, before: int, size: int) -> None:
    """Whatever the header says, it works or an error says why, and memory stays in its bounds."""
    head = support.multiboot_header(1 << 16) + struct.pack("<5I", *fields)
    data = (bytes(4 * before) + head + CODE)[:size]
    try:
        assert load(data, SMALL).rip < 4 * MIB
    except (ImageError, ConfigError):
        pass


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.booleans())
@settings(max_examples=400)
def test_mutated_elf(edits, wide: bool) -> None:
    data = bytearray(elf(64 if wide else 32))
    for at, value in edits:
        data[at] = value
    try:
        assert load(bytes(data), SMALL, modules=[b"x"]).rip < 4 * MIB
    except (ImageError, ConfigError):
        pass
