# SPDX-License-Identifier: Apache-2.0
"""Image files: opened with clear errors, read straight into guest memory."""

from __future__ import annotations

import os
import stat

from pyvmm.errors import HostError, ImageError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    Source = str | os.PathLike[str] | bytes | bytearray | memoryview


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
        self._fd, self.size = open_regular(path, self.name)

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
        """Read ``length`` bytes from ``offset``.

        Raise `ImageError` when the image ends before, `HostError` when the file cannot be read.
        """
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


def open_regular(path: str, name: str) -> tuple[int, int]:
    """Return a descriptor for the regular file ``path`` and its size; ``name`` is for messages.

    Raise `HostError` when it cannot be opened, `ImageError` for what else it is, a pipe without a
    writer too: nobody waits.
    """
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
