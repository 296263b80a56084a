# SPDX-License-Identifier: Apache-2.0
"""ACPI machine language: the handful of encodings that a DSDT of fixed devices needs.

Every function returns finished AML bytes; terms nest by passing bytes to bytes. Encodings follow
the ACPI specification 6.3, chapter 20 (AML) and section 6.4 (resource descriptors). A value that
the encoding cannot hold raises `ConfigError`.
"""

from __future__ import annotations

import struct

from pyvmm.errors import ConfigError

#: Longest package the four-byte PkgLength can state, its own bytes included.
MAX_PACKAGE = (1 << 28) - 1

_NAME_LEAD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME_TAIL = _NAME_LEAD | frozenset("0123456789")


def pkg_length(payload: int) -> bytes:
    """Encode the PkgLength of ``payload`` bytes (20.2.4); the length that it states includes its own
    bytes.
    """
    if payload + 1 < 1 << 6:
        return bytes((payload + 1,))
    for extra, limit in ((1, 1 << 12), (2, 1 << 20), (3, 1 << 28)):
        total = payload + extra + 1
        if total < limit:
            lead = extra << 6 | total & 0xF
            return bytes((lead,)) + (total >> 4).to_bytes(extra, "little")
    raise ConfigError(f"an AML package of {payload} bytes is longer than {MAX_PACKAGE}")


def integer(value: int) -> bytes:
    """Encode an integer in its shortest form (20.2.3).

    The DSDT has revision 2, so integers are 64 bits wide.
    """
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << (8 * size):
            return bytes((prefix,)) + value.to_bytes(size, "little")
    raise ConfigError(f"{value} is not an unsigned 64-bit AML integer")


def string(text: str) -> bytes:
    """Encode a string: ASCII without NUL (20.2.3)."""
    if not text.isascii() or "\0" in text:
        raise ConfigError(f"{text!r} cannot be an AML string: only ASCII without NUL")
    return b"\x0d" + text.encode("ascii") + b"\0"


def name_path(path: str) -> bytes:
    r"""Encode a name such as ``_CRS`` or ``\_SB.COM1`` (20.2.2); ``_`` pads short segments."""
    root = path.startswith("\\")
    segments = [_segment(part, path) for part in path[root:].split(".")] if path[root:] else []
    if len(segments) > 255:
        raise ConfigError(f"the AML name {path!r} has more than 255 segments")
    head = b"\\" if root else b""
    if not segments:
        return head + b"\0"
    if len(segments) == 1:
        return head + segments[0]
    lead = b"\x2e" if len(segments) == 2 else bytes((0x2F, len(segments)))
    return head + lead + b"".join(segments)


def _segment(part: str, path: str) -> bytes:
    if not 1 <= len(part) <= 4 or part[0] not in _NAME_LEAD or not _NAME_TAIL.issuperset(part):
        raise ConfigError(f"{part!r} in {path!r} is not an AML name: A-Z, 0-9 and _, at most four")
    return part.ljust(4, "_").encode("ascii")


def _packed(opcode: bytes, payload: bytes) -> bytes:
    return opcode + pkg_length(len(payload)) + payload


def name(path: str, value: bytes) -> bytes:
    """Encode ``Name (path, value)``: the value is AML (20.2.5.1)."""
    return b"\x08" + name_path(path) + value


def package(*elements: bytes) -> bytes:
    """Encode ``Package () { elements }``, at most 255 pieces of AML (20.2.5.4)."""
    if len(elements) > 255:
        raise ConfigError(f"an AML package holds at most 255 elements, not {len(elements)}")
    return _packed(b"\x12", bytes((len(elements),)) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    """Encode ``Buffer () { data }`` (20.2.5.4)."""
    return _packed(b"\x11", integer(len(data)) + data)


def scope(path: str, *terms: bytes) -> bytes:
    """Encode ``Scope (path) { terms }``: the terms are AML (20.2.5.1)."""
    return _packed(b"\x10", name_path(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Encode ``Device (path) { terms }``: the terms are AML (20.2.5.2)."""
    return _packed(b"\x5b\x82", name_path(path) + b"".join(terms))


def eisa_id(ident: str) -> bytes:
    """Encode ``EisaId (ident)``: three letters and four hexadecimal digits, such as ``PNP0501``."""
    vendor, product = ident[:3], ident[3:]
    if not (
        len(ident) == 7
        and all("A" <= letter <= "Z" for letter in vendor)
        and all(digit in "0123456789ABCDEF" for digit in product)
    ):
        raise ConfigError(f"{ident!r} is not an EISA id such as PNP0501")
    code = int(product, 16)
    for position, letter in enumerate(vendor):
        code |= (ord(letter) - 0x40) << (26 - 5 * position)
    # The id is stored with its most significant byte first.
    return integer(int.from_bytes(code.to_bytes(4, "big"), "little"))


def resource_template(*resources: bytes) -> bytes:
    """Encode ``ResourceTemplate () { resources }``: a buffer closed by an end tag, not checksummed."""
    return buffer(b"".join(resources) + b"\x79\0")


def io(base: int, length: int) -> bytes:
    """Encode a fixed I/O port range, 16 bits decoded (6.4.2.5)."""
    if not (0 <= base <= 0xFFFF and 1 <= length <= 0xFF and base + length <= 0x10000):
        raise ConfigError(f"I/O ports {base:#x} + {length} are not 1 to 255 ports within 64 KiB")
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, length)


def irq(number: int) -> bytes:
    """Encode an ISA interrupt, edge triggered and active high: ``IRQNoFlags`` (6.4.2.1)."""
    if not 0 <= number <= 15:
        raise ConfigError(f"IRQ {number} is not an ISA interrupt (0 to 15)")
    return struct.pack("<BH", 0x22, 1 << number)


def memory32(base: int, length: int) -> bytes:
    """Encode a fixed range of writable memory addresses below 4 GiB: ``Memory32Fixed`` (6.4.3.4)."""
    if base < 0 or length < 1 or base + length > 1 << 32:
        raise ConfigError(f"memory {base:#x} + {length:#x} does not lie below 4 GiB")
    return struct.pack("<BHBII", 0x86, 9, 1, base, length)


def interrupt(gsi: int) -> bytes:
    """Encode one global system interrupt, consumed, edge triggered, active high, exclusive
    (6.4.3.6).
    """
    if not 0 <= gsi < 1 << 32:
        raise ConfigError(f"GSI {gsi} is not a 32-bit interrupt number")
    return struct.pack("<BHBBI", 0x89, 6, 0b0011, 1, gsi)
