# SPDX-License-Identifier: Apache-2.0
"""The vmlinux of a running kernel: the file with its types and symbols, told by its build id."""

from __future__ import annotations

import glob
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import ConfigError, ImageError
from pyvmm.guest import cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from pyvmm.drgn.vmcoreinfo import VmcoreInfo

# ELF-64, little-endian: System V ABI, chapters 4 and 5.
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NHDR = struct.Struct("<III")
_SHT_NOTE = 7
_SHT_NOBITS = 8
_BUILD_ID = (b"GNU\0", 3)
#: No kernel has more; a file that claims to is malformed.
MAX_SECTIONS = 1 << 16
MAX_TABLE = 1 << 20
MAX_NAME = 256
#: Bytes that are looked through at a time.
PIECE = 1 << 20

REMEDY = (
    "a kernel of pyvmm guest build has it: build and run one, or give the file of the running one, with debug"
    " information, with --vmlinux PATH"
)


class Vmlinux(NamedTuple):
    """An ELF kernel: its `path`, `build_id` in hexadecimal (empty if it has none), and whether it
    has DWARF.
    """

    path: str
    build_id: str
    has_types: bool


class _Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int


def examine(path: str) -> Vmlinux:
    """Read the headers of an ELF file. Raise ImageError if it is none or malformed."""
    try:
        with open(path, "rb") as file:
            sections = _sections(file, path)
            build_id = next(
                filter(None, (_build_id(file, s) for s in _note_sections(sections))), ""
            )
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    has_types = any(
        section.name in (".debug_info", ".zdebug_info") and section.kind != _SHT_NOBITS
        for section in sections
    )
    return Vmlinux(path, build_id, has_types)


def _sections(file: BinaryIO, path: str) -> list[_Section]:
    header = file.read(_EHDR.size)
    if len(header) < _EHDR.size or not header.startswith(b"\x7fELF\x02\x01"):
        raise ImageError(f"{path} is no 64-bit ELF file: the uncompressed vmlinux is wanted")
    fields = _EHDR.unpack(header)
    offset, entry_size, count, names_index = fields[6], fields[11], fields[12], fields[13]
    if entry_size != _SHDR.size or not 0 < count < MAX_SECTIONS or names_index >= count:
        raise ImageError(f"{path} has no sections: a stripped kernel has no types")
    table = _read_at(file, offset, count * _SHDR.size)
    if len(table) < count * _SHDR.size:
        raise ImageError(f"{path} is truncated: its section headers are missing")
    entries = list(_SHDR.iter_unpack(table))
    names_at, names_size = entries[names_index][4:6]
    names = _read_at(file, names_at, min(names_size, MAX_TABLE))
    return [_Section(_name(names, entry[0]), entry[1], entry[4], entry[5]) for entry in entries]


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read what there is: nothing where the file has ended, and never a seek to where no file can
    reach.
    """
    if offset >= os.fstat(file.fileno()).st_size:
        return b""
    file.seek(offset)
    return file.read(size)


def _name(names: bytes, at: int) -> str:
    # No more than a name is long: sections may all point to the start of a table without an end.
    return names[at : at + MAX_NAME].partition(b"\0")[0].decode("ascii", "replace")


def _note_sections(sections: list[_Section]) -> Iterator[_Section]:
    """Yield the sections with notes, no more than `MAX_TABLE` bytes of them all together."""
    left = MAX_TABLE
    for section in sections:
        if section.kind == _SHT_NOTE and section.size <= left:
            left -= section.size
            yield section


def _build_id(file: BinaryIO, section: _Section) -> str:
    notes, at = _read_at(file, section.offset, section.size), 0
    while at + _NHDR.size <= len(notes):
        name_size, size, kind = _NHDR.unpack_from(notes, at)
        name_at = at + _NHDR.size
        value_at = name_at + (name_size + 3 & ~3)
        if (notes[name_at : name_at + name_size], kind) == _BUILD_ID:
            return notes[value_at : value_at + size].hex()
        at = value_at + (size + 3 & ~3)
    return ""


def find(info: VmcoreInfo, path: str | None = None) -> Vmlinux:
    """Return the vmlinux of the kernel that `info` is of: `path`, which must be it, or one that is
    found.

    Raise ImageError if the file is of another kernel or has no types, ConfigError if there is none.
    """
    if path is not None:
        return _checked(examine(path), info)
    without = ""
    for candidate in places(info):
        try:
            found = examine(candidate)
        except ImageError:
            continue
        if not _is_of(found, info):
            continue
        if found.has_types:
            return found
        without = candidate
    if without:
        raise ImageError(
            f"{without} is the running kernel's but has no debug information; {REMEDY}"
        )
    raise ConfigError(f"no vmlinux of the running kernel {info.release} was found; {REMEDY}")


def places(info: VmcoreInfo) -> Iterator[str]:
    """Yield files that may be the vmlinux: the kernels built here, and where distributions put
    theirs.
    """
    yield from sorted(
        glob.glob(os.path.join(glob.escape(cache.kernel_dir("")) + "*", "vmlinux.debug"))
    )
    if info.build_id.isalnum():
        yield f"/usr/lib/debug/.build-id/{info.build_id[:2]}/{info.build_id[2:]}.debug"
    if "/" not in info.release:
        yield f"/usr/lib/debug/boot/vmlinux-{info.release}"
        yield f"/usr/lib/debug/lib/modules/{info.release}/vmlinux"


def _checked(found: Vmlinux, info: VmcoreInfo) -> Vmlinux:
    if not _is_of(found, info):
        raise ImageError(
            f"{found.path} is not of the running kernel {info.release}: its build id is"
            f" {found.build_id or 'missing'}, the guest's {info.build_id or 'missing'}"
        )
    if not found.has_types:
        raise ImageError(f"{found.path} has no debug information; {REMEDY}")
    return found


def _is_of(found: Vmlinux, info: VmcoreInfo) -> bool:
    if info.build_id and found.build_id:
        return found.build_id == info.build_id
    return _holds(found.path, f"Linux version {info.release} ".encode())


def _holds(path: str, text: bytes) -> bool:
    """Return whether a file contains a text. It is not mapped: it may be cut off meanwhile."""
    with open(path, "rb") as file:
        before = b""
        while piece := file.read(PIECE):
            both = before + piece
            if text in both:
                return True
            before = both[-len(text) :]
    return False
