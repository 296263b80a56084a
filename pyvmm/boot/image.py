# SPDX-License-Identifier: Apache-2.0
"""Image files: opened with clear errors, read straight into guest memory, told by magic."""

from __future__ import annotations

import os
import stat

from pyvmm.errors import HostError, ImageError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    Source = str | os.PathLike[str] | bytes | bytearray | memoryview

#: Bytes that `sniff` looks at, at most.
HEAD_SIZE = 8192


class Image:
    """A kernel or initrd with a ``name`` for messages and a ``size`` in bytes; a context manager.

    Made of a path or of bytes; ``path`` is "" then. A file is read with pread, so that a segment
    goes from the page cache to guest memory in one copy.
    """

    __slots__ = ("_data", "_fd", "name", "path", "size")

    def __init__(self, source: Source, what: str) -> None:
        """Open ``source``, a path or the content; ``what`` ("kernel") is for messages.

        Raise `HostError` when the file cannot be opened, `ImageError` when it is not a regular
        file.
        """
        self._fd = -1
        self._data: memoryview | None = memoryview(b"")
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.name, self.path = f"the {what} given as bytes", ""
            data = memoryview(source).cast("B")
            self._data, self.size = data, len(data)
            return
        self.path = path = os.fspath(source)
        self.name = f"{what} {path!r}"
        if "\0" in path:
            raise ImageError(f"{self.name}: a file name cannot contain NUL")
        self._fd, self.size = _open_regular(path, self.name)

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, or let go of the bytes; a second time does nothing."""
        self._data = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; `ImageError` when the image ends before."""
        # Checked before the allocation: the length may come from a hostile header.
        self._check(offset, length)
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def _check(self, offset: int, length: int) -> None:
        if offset + length > self.size:
            raise ImageError(
                f"{self.name} is truncated: it has {self.size} bytes and refers to bytes {offset} "
                f"to {offset + length}; copy or build it again"
            )

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset``; `ImageError` when the image ends before that.

        Raise `HostError` when the file cannot be read, `StateError` after `close`.
        """
        if self._data is None:
            raise StateError(f"{self.name} is closed")
        self._check(offset, len(view))
        if self._fd < 0:
            view[:] = self._data[offset : offset + len(view)]
            return
        try:
            self._pread(offset, view)
        except OSError as error:
            raise HostError(error.errno, f"cannot read {self.name}: {error.strerror}") from error

    def _pread(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            with view[done:] as rest:
                count = os.preadv(self._fd, [rest], offset + done)
            if count == 0:
                raise ImageError(f"{self.name} became shorter while it was being read; try again")
            done += count


def _open_regular(path: str, name: str) -> tuple[int, int]:
    """Return a descriptor for the regular file ``path`` and its size."""
    try:
        # A FIFO must not hang the open; a regular file does not mind O_NONBLOCK.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(error.errno, f"cannot open {name}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name} is a directory; give the file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name} is not a regular file; save its content to one first")
        if status.st_size == 0:
            raise ImageError(f"{name} is empty; build or copy it again")
    except BaseException:
        os.close(fd)
        raise
    return fd, status.st_size


_MULTIBOOT_MAGIC = b"\x02\xb0\xad\x1b"

# Magic at the start of files that are mistaken for kernels, and what to say about each.
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4 -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"\x5d\0\0", "lzma", "xz --format=lzma -dc"),
    (b"\x89LZO\0", "lzop", "lzop -dc"),
)


def sniff(head: bytes, name: str) -> str:
    """Return ``"bzimage"``, ``"multiboot"`` or ``"elf"``, by the first `HEAD_SIZE` bytes.

    An ELF file with a Multiboot header counts as Multiboot. `ImageError` for all else.
    """
    if head[0x202:0x206] == b"HdrS" and not head.startswith(b"\x7fELF"):
        return "bzimage"
    if _MULTIBOOT_MAGIC in head:
        from pyvmm.boot import multiboot

        if multiboot.find(head) is not None:
            return "multiboot"
    if head.startswith(b"\x7fELF"):
        return "elf"
    for magic, kind, command in _COMPRESSED:
        if head.startswith(magic):
            raise ImageError(
                f"{name} is {kind}-compressed; decompress it ({command} FILE > vmlinux) and give "
                "that, or give the bzImage of the same kernel"
            )
    raise ImageError(f"{name} {_other(head)}")


_GIVE = "give an x86-64 bzImage or vmlinux"


def _other(head: bytes) -> str:
    """Say what a file that no loader takes seems to be, and the remedy."""
    if head[56:60] == b"ARM\x64":
        return f"is an ARM64 kernel (Image); this machine is x86-64: {_GIVE}"
    if head[56:60] == b"RSC\x05":
        return f"is a RISC-V kernel (Image); this machine is x86-64: {_GIVE}"
    if head.startswith(b"MZ") and head[4:8] == b"zimg":
        return f"is an EFI zboot kernel; this machine has no EFI: {_GIVE}"
    if head.startswith(b"MZ") and b".linux\0" in head:
        return (
            "is a unified kernel image, and this machine has no EFI; take the bzImage out of it "
            "(objcopy -O binary -j .linux FILE vmlinuz) and give that"
        )
    if head.startswith(b"MZ"):
        return (
            "is an EFI or DOS program without a Linux boot header; give a bzImage or an ELF vmlinux"
        )
    if head.startswith((b"070701", b"070702", b"\xc7\x71")):
        return "is a cpio archive; pass it as the initrd, and give a kernel as well"
    if head.startswith(b"\xd0\x0d\xfe\xed"):
        return f"is a device tree or a FIT image; this machine is x86-64: {_GIVE}"
    if head.startswith(b"QFI\xfb"):
        return "is a qcow2 disk image; give the kernel itself, a bzImage or an ELF vmlinux"
    if head[510:512] == b"\x55\xaa":
        return (
            "is a disk image or a boot sector; give a kernel (a bzImage or an ELF vmlinux), "
            "or say that it is a flat binary (--flat real; in Python flat='real')"
        )
    return (
        "is neither a bzImage nor an ELF or Multiboot kernel; give one of those, "
        "or say that it is a flat binary (--flat real; in Python flat='real')"
    )
