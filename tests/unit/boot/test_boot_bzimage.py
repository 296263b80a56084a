# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from pyvmm.boot import bzimage
from pyvmm.boot.image import Image
from pyvmm.errors import ConfigError, ImageError
from tests.support import images as support
from tests.support.images import GIB, MIB, FakeMemory, Region

PAYLOAD = bytes(range(256)) * 64


def load(data: bytes, memory: FakeMemory, **options):
    with Image(data, "kernel") as image:
        return bzimage.load(image, memory, **options)


def walk(memory: FakeMemory, cr3: int, address: int) -> int | None:
    """Translate by the guest's own page tables."""
    table = cr3
    for shift in (39, 30, 21, 12):
        index = address >> shift & 0x1FF
        (entry,) = struct.unpack("<Q", memory.read(table + index * 8, 8))
        if not entry & 1:
            return None
        assert entry & 2
        if entry & 0x80 or shift == 12:
            return (entry & 0x000FFFFFFFFFF000 & -(1 << shift)) | address & ((1 << shift) - 1)
        table = entry & 0x000FFFFFFFFFF000
    raise AssertionError


def test_start_state() -> None:
    memory = FakeMemory()
    state = load(support.bzimage(PAYLOAD), memory)
    assert state.mode == "long"
    assert state.rip == 16 * MIB + 0x200
    assert state.rsi == 0x7000
    assert memory.read(16 * MIB, len(PAYLOAD)) == PAYLOAD


@pytest.mark.parametrize("gib_pages", [True, False])
@pytest.mark.parametrize("fill", [0, 0xFF])
def test_identity_map_of_4_gib(gib_pages: bool, fill: int) -> None:
    memory = FakeMemory(fill=fill)
    state = load(support.bzimage(), memory, gib_pages=gib_pages)
    for address in (0, 0x7000, 16 * MIB + 0x200, GIB - 1, 3 * GIB + 12345, 4 * GIB - 1):
        assert walk(memory, state.cr3, address) == address
    assert walk(memory, state.cr3, 4 * GIB) is None
    assert walk(memory, state.cr3, 1 << 39) is None


def test_descriptors() -> None:
    memory = FakeMemory()
    state = load(support.bzimage(), memory)
    table = struct.unpack("<4Q", memory.read(state.gdt_base, state.gdt_limit + 1))
    assert table == (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)


def test_boot_params() -> None:
    memory = FakeMemory(high=16 * MIB)
    state = load(
        support.bzimage(),
        memory,
        cmdline="console=ttyS0 ä",
        initrd_parts=[b"abcde", b"xyz"],
        rsdp=0xE0000,
        reserved=[Region(8 * GIB, GIB)],
    )
    page = memory.read(state.rsi, 4096)
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
    assert page[0x1EF] == 0
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert page[0x211] == 1
    assert struct.unpack_from("<I", page, 0x214) == (16 * MIB,)
    image, size = struct.unpack_from("<II", page, 0x218)
    assert image % 4096 == 0
    assert size == 15
    assert memory.read(image, 15) == b"abcde" + bytes(7) + b"xyz"
    (cmdline,) = struct.unpack_from("<I", page, 0x228)
    text = "console=ttyS0 ä".encode() + b"\0"
    assert memory.read(cmdline, len(text)) == text
    count = page[0x1E8]
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * index) for index in range(count)]
    assert entries == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x60400, 2),
        (MIB, 63 * MIB, 1),
        (4 * GIB, 16 * MIB, 1),
        (8 * GIB, GIB, 2),
    ]
    (setup_data,) = struct.unpack_from("<Q", page, 0x250)
    node = struct.unpack("<QII", memory.read(setup_data, 16))
    assert node == (0, 9, 32)
    assert any(memory.read(setup_data + 16, 32))


def test_only_the_setup_header_is_copied() -> None:
    data = bytearray(support.bzimage())
    data[0:0x1F1] = b"\xff" * 0x1F1  # the sentinel among it
    data[0x26C:0x290] = b"\xff" * (0x290 - 0x26C)
    memory = FakeMemory()
    page = memory.read(load(bytes(data), memory).rsi, 4096)
    assert not any(page[:0x70])
    assert page[0x1EF] == 0
    assert not any(page[0x26C:0x290])


def test_no_initrd() -> None:
    memory = FakeMemory()
    page = memory.read(load(support.bzimage(), memory, initrd_parts=[b""]).rsi, 4096)
    assert struct.unpack_from("<II", page, 0x218) == (0, 0)


def test_initrd_keeps_below_what_the_kernel_allows() -> None:
    memory = FakeMemory()
    data = support.bzimage(initrd_addr_max=32 * MIB - 1)
    page = memory.read(load(data, memory, initrd_parts=[b"x" * 4097]).rsi, 4096)
    assert struct.unpack_from("<II", page, 0x218) == (32 * MIB - 8192, 4097)


def test_zero_setup_sectors_mean_four() -> None:
    memory = FakeMemory()
    load(support.bzimage(PAYLOAD, setup_sects=0), memory)
    assert memory.read(16 * MIB, len(PAYLOAD)) == PAYLOAD


def test_a_signature_after_the_image_is_not_loaded() -> None:
    memory = FakeMemory()
    load(support.bzimage(PAYLOAD) + b"signature" * 10, memory)
    assert not any(memory.read(16 * MIB + len(PAYLOAD), 100))


@pytest.mark.parametrize("missing", [1, 8, 15])
def test_the_last_paragraph_may_be_short(missing: int) -> None:
    """The header counts paragraphs of 16 bytes; memtest86+ is not padded to one."""
    memory = FakeMemory(fill=0xAA)
    load(support.bzimage(PAYLOAD)[:-missing], memory)
    assert memory.read(16 * MIB, len(PAYLOAD) - missing) == PAYLOAD[:-missing]
    assert memory.read(16 * MIB + len(PAYLOAD) - missing, missing) == b"\xaa" * missing


def test_a_whole_paragraph_may_not_be_missing() -> None:
    with pytest.raises(ImageError, match="truncated"):
        load(support.bzimage(PAYLOAD)[:-16], FakeMemory())


def test_not_relocatable() -> None:
    memory = FakeMemory()
    state = load(support.bzimage(relocatable=0, alignment=0), memory)
    assert state.rip == MIB + 0x200


def test_load_address_is_aligned_up() -> None:
    memory = FakeMemory()
    state = load(support.bzimage(pref_address=16 * MIB + 1, alignment=4 * MIB), memory)
    assert state.rip == 20 * MIB + 0x200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"Hdrs"}, "magic"),
        ({"boot_flag": 0x55AA}, "magic"),
        ({"version": 0x020B}, r"protocol 2\.11"),
        ({"jump": b"\xeb\x10"}, "setup header"),
        ({"jump": b"\xeb\x80"}, "setup header"),
        ({"jump": b"\xe9\x6a"}, "setup header"),
        ({"loadflags": 0}, "zImage"),
        ({"xloadflags": 0}, "64-bit"),
        ({"alignment": 3 * MIB}, "power of two"),
        ({"alignment": 0}, "power of two"),
        ({"init_size": 0}, "init_size"),
        ({"payload": b""}, "protected-mode"),
        ({"relocatable": 0, "pref_address": 0x1000}, "below 1 MiB"),
    ],
)
def test_bad_headers(changes, message) -> None:
    with pytest.raises(ImageError, match=message):
        load(support.bzimage(**changes), FakeMemory())


@pytest.mark.parametrize("size", [1, 0x1FE, 0x263, 0x264, 2560, 2560 + 4080])
def test_truncated(size: int) -> None:
    with pytest.raises(ImageError, match=r"truncated|malformed"):
        load(support.bzimage()[:size], FakeMemory())


@pytest.mark.parametrize(
    "changes",
    [
        {"init_size": 49 * MIB},
        {"init_size": 0xFFFFFFFF},
        {"pref_address": 64 * MIB},
        {"pref_address": (1 << 64) - 1},
    ],
)
def test_kernel_that_does_not_fit(changes) -> None:
    with pytest.raises(ConfigError, match="more memory"):
        load(support.bzimage(**changes), FakeMemory())


def test_exact_fit() -> None:
    load(support.bzimage(init_size=48 * MIB), FakeMemory())


@pytest.mark.parametrize("size", [40 * MIB + 1, 64 * MIB])
def test_initrd_that_does_not_fit(size: int) -> None:
    with pytest.raises(ConfigError, match="initrd"):
        load(support.bzimage(), FakeMemory(), initrd_parts=[bytes(size)])


def test_command_line_limit() -> None:
    load(support.bzimage(cmdline_size=10), FakeMemory(), cmdline="a" * 10)
    with pytest.raises(ConfigError, match="at most 10"):
        load(support.bzimage(cmdline_size=10), FakeMemory(), cmdline="a" * 11)
    with pytest.raises(ConfigError, match="at most"):
        load(support.bzimage(cmdline_size=0xFFFFFFFF), FakeMemory(), cmdline="a" * 600000)
    with pytest.raises(ConfigError, match="NUL"):
        load(support.bzimage(), FakeMemory(), cmdline="a\0b")


def test_too_many_reserved_regions() -> None:
    reserved = [Region((i + 5) * GIB, MIB) for i in range(126)]
    with pytest.raises(ConfigError, match="reserve fewer"):
        load(support.bzimage(), FakeMemory(), reserved=reserved)


def test_tiny_guest() -> None:
    """A remedy that asks for what was given is none."""
    with pytest.raises(ConfigError, match=r"1 MiB of guest memory cannot .* 64 MiB at least"):
        load(support.bzimage(pref_address=0, init_size=4096), FakeMemory(MIB))
