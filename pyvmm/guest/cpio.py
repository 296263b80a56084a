# SPDX-License-Identifier: Apache-2.0
"""A writer of cpio archives in the 'newc' form, which is what Linux unpacks as its initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Archives may
follow one another, each starting on a 4-byte boundary; a later entry replaces an earlier one of the
same name. The output depends on the calls alone: no clock, no user id. On the launch path: no
imports.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError

TRAILER = b"TRAILER!!!"
ALIGNMENT = 4
MAX_SIZE = 0xFFFFFFFF  # the size field has eight hexadecimal digits
MAX_NAME = 4095  # PATH_MAX less the closing zero: the kernel skips longer ones without a word

S_IFCHR = 0o020000
S_IFDIR = 0o040000
S_IFREG = 0o100000
S_IFLNK = 0o120000
PERMISSIONS = 0o7777


class Archive:
    """Collects entries; `finish` returns the bytes. All entries belong to root and have time 0."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._names: set[bytes] = set()

    def __contains__(self, name: str | bytes) -> bool:
        return clean_name(name) in self._names

    def directory(self, name: str | bytes, mode: int = 0o755) -> None:
        """Add a directory. Parents are the caller's business, see `parents`."""
        self._entry(clean_name(name), S_IFDIR | (mode & PERMISSIONS), b"")

    def file(self, name: str | bytes, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._entry(clean_name(name), S_IFREG | (mode & PERMISSIONS), data)

    def symlink(self, name: str | bytes, target: str | bytes) -> None:
        """Add a symbolic link to ``target``, which is stored as it is."""
        text = as_bytes(target)
        if not text or b"\0" in text or len(text) > MAX_NAME:
            raise ConfigError(f"the symbolic link {name!r} cannot point to {target!r}")
        self._entry(clean_name(name), S_IFLNK | 0o777, text)

    def character_device(self, name: str | bytes, major: int, minor: int, mode: int) -> None:
        """Add a character device node. Needs no root: it is only written down here."""
        self._entry(clean_name(name), S_IFCHR | (mode & PERMISSIONS), b"", (major, minor))

    def parents(self, name: str | bytes) -> None:
        """Add the directories above ``name`` that this archive does not have yet."""
        parts = clean_name(name).split(b"/")
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            if above not in self._names:
                self.directory(above)

    def finish(self, multiple: int = ALIGNMENT) -> bytes:
        """Return the archive with its trailer, zero-padded to a multiple of ``multiple`` bytes."""
        parts = [*self._parts, record(0, TRAILER, 0, b"", (0, 0))]
        parts.append(padding(sum(map(len, parts)), multiple))
        return b"".join(parts)

    def _entry(self, name: bytes, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        if len(data) > MAX_SIZE:
            raise ConfigError(f"{name!r} is too large for an initramfs: {len(data)} bytes")
        self._inode += 1
        self._names.add(name)
        self._parts.append(record(self._inode, name, mode, data, device))


def as_bytes(text: str | bytes) -> bytes:
    """Return text as the file system has it: undecodable bytes of the host come through unchanged."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def clean_name(name: str | bytes) -> bytes:
    """Return the name as archives have it: relative, without empty and '.' parts.

    Raise ConfigError for a name that is empty, too long, or has '..' or a zero byte in it.
    """
    raw = as_bytes(name)
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    clean = b"/".join(parts)
    if not clean or b"\0" in clean or b".." in parts or len(clean) > MAX_NAME or clean == TRAILER:
        raise ConfigError(f"not a usable path in the guest: {name!r}")
    return clean


def padding(length: int, multiple: int = ALIGNMENT) -> bytes:
    """Return the zeros that bring ``length`` up to a multiple."""
    return bytes(-length % multiple)


def record(inode: int, name: bytes, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    """Return one entry: header, name, data, each padded.

    A link count of 1 keeps the kernel from pairing inode numbers.
    """
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    return head + padding(len(head)) + data + padding(len(data))
