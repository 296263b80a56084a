# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from pyvmm.boot import flat
from pyvmm.errors import ConfigError, HostError, ImageError
from tests.support.images import GIB, MIB, FakeMemory

CODE = b"\xb0\x01\xe6\xf4\xf4"


def test_real_mode_is_the_default() -> None:
    memory = FakeMemory(MIB)
    state = flat.load(CODE, memory)
    assert (state.mode, state.rip, state.rsp) == ("real", 0x7C00, 0x7C00)
    assert (state.gdt_base, state.cr3) == (0, 0)
    assert memory.read(0x7C00, len(CODE)) == CODE


def test_protected_mode(tmp_path) -> None:
    path = tmp_path / "code.bin"
    path.write_bytes(CODE)
    memory = FakeMemory()
    state = flat.load(path, memory, mode="protected", address=2 * MIB, entry=2 * MIB + 2)
    assert (state.mode, state.rip, state.cr3) == ("protected", 2 * MIB + 2, 0)
    code, data = struct.unpack_from("<QQ", memory.read(state.gdt_base, 32), 16)
    assert (code, data) == (0x00CF9B000000FFFF, 0x00CF93000000FFFF)


def test_long_mode() -> None:
    memory = FakeMemory()
    state = flat.load(CODE, memory, mode="long")
    assert (state.mode, state.rip, state.cr3) == ("long", MIB, 0x9000)
    assert struct.unpack_from("<Q", memory.read(state.gdt_base, 32), 16) == (0x00AF9B000000FFFF,)


def test_address_zero_and_high_memory() -> None:
    assert flat.load(CODE, FakeMemory(MIB), address=0).rip == 0
    memory = FakeMemory(high=MIB)
    assert flat.load(CODE, memory, mode="protected", address=4 * GIB - 0).rip == 4 * GIB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "unreal"}, "processor mode"),
        ({"address": 64 * MIB - 1}, "guest memory"),
        ({"address": -1}, "guest memory"),
        ({"address": 1 << 64}, "guest memory"),
        ({"address": 0x10000}, "real mode"),
        ({"entry": 0x7C05}, "not in"),
        ({"entry": 0x7BFF}, "not in"),
        ({"mode": "protected", "address": 0x51F}, "boot tables"),
        ({"mode": "long", "address": 0x8FFE}, "boot tables"),
        ({"mode": "long", "address": 0xEFFF}, "boot tables"),
    ],
)
def test_bad_places(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        flat.load(CODE, FakeMemory(), **options)


@pytest.mark.parametrize("address", [0x520, 0x8FFB, 0xF000])
def test_beside_the_boot_tables(address: int) -> None:
    flat.load(CODE, FakeMemory(), mode="long", address=address)


def test_bad_sources(tmp_path) -> None:
    with pytest.raises(ImageError, match="empty"):
        flat.load(b"", FakeMemory())
    with pytest.raises(HostError, match="absent"):
        flat.load(tmp_path / "absent", FakeMemory())
