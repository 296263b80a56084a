# SPDX-License-Identifier: Apache-2.0
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot import aml
from pyvmm.errors import ConfigError


def decode_pkg_length(data: bytes) -> tuple[int, int]:
    """(stated length, bytes it takes): the decoder of ACPI 6.3, 20.2.4."""
    lead = data[0]
    extra = lead >> 6
    if extra == 0:
        return lead & 0x3F, 1
    assert lead & 0x30 == 0
    return lead & 0xF | int.from_bytes(data[1 : 1 + extra], "little") << 4, 1 + extra


def decode_integer(data: bytes) -> int:
    if data[0] in (0, 1):
        return data[0]
    size = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}[data[0]]
    assert len(data) == 1 + size
    return int.from_bytes(data[1:], "little")


@given(st.integers(0, aml.MAX_PACKAGE - 4))
def test_pkg_length_counts_itself(payload: int) -> None:
    encoded = aml.pkg_length(payload)
    assert decode_pkg_length(encoded) == (payload + len(encoded), len(encoded))


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (0, 1),
        (62, 1),
        (63, 2),
        (0xFFF - 2, 2),
        (0xFFF - 1, 3),
        (0xFFFFF - 3, 3),
        (0xFFFFF - 2, 4),
        (aml.MAX_PACKAGE - 4, 4),
    ],
)
def test_pkg_length_is_shortest(payload: int, size: int) -> None:
    encoded = aml.pkg_length(payload)
    assert len(encoded) == size
    assert decode_pkg_length(encoded) == (payload + size, size)


def test_pkg_length_too_long() -> None:
    with pytest.raises(ConfigError, match="longer"):
        aml.pkg_length(aml.MAX_PACKAGE - 3)


@given(st.integers(0, 2**64 - 1))
def test_integer_round_trip(value: int) -> None:
    assert decode_integer(aml.integer(value)) == value


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integer_is_shortest(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_out_of_range(value: int) -> None:
    with pytest.raises(ConfigError):
        aml.integer(value)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("_CRS", b"_CRS"),
        ("\\_S5", b"\\_S5_"),
        ("\\", b"\\\0"),
        ("\\_SB.COM1", b"\\\x2e_SB_COM1"),
        ("A.B.C", b"\x2f\x03A___B___C___"),
    ],
)
def test_name_path(path: str, encoded: bytes) -> None:
    assert aml.name_path(path) == encoded


@pytest.mark.parametrize("path", ["1AB", "ABCDE", "a", "A..B", "\\A.", "É"])
def test_bad_name(path: str) -> None:
    with pytest.raises(ConfigError, match="AML name"):
        aml.name_path(path)


def test_eisa_id_is_the_documented_value() -> None:
    # ACPI's own example: EisaId ("PNP0501") is 0x0105D041.
    assert aml.eisa_id("PNP0501") == b"\x0c" + struct.pack("<I", 0x0105D041)


@pytest.mark.parametrize("ident", ["PNP050", "pnp0501", "PNP050G", "PN10501", ""])
def test_bad_eisa_id(ident: str) -> None:
    with pytest.raises(ConfigError, match="EISA"):
        aml.eisa_id(ident)


@pytest.mark.parametrize(
    "call",
    [
        lambda: aml.io(0xFFFF, 2),
        lambda: aml.io(-1, 1),
        lambda: aml.io(0, 256),
        lambda: aml.irq(16),
        lambda: aml.memory32(0xFFFFFFFF, 2),
        lambda: aml.memory32(0, 0),
        lambda: aml.interrupt(1 << 32),
        lambda: aml.string("naïve"),
        lambda: aml.string("a\0b"),
        lambda: aml.package(*[b"\0"] * 256),
    ],
)
def test_values_that_do_not_fit(call) -> None:
    with pytest.raises(ConfigError):
        call()
