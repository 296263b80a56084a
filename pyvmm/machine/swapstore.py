# SPDX-License-Identifier: Apache-2.0
"""What a swap disk is made of: memory, or a file for one larger than the host's memory; slot by slot of 4 KiB."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine.aperture import ALIGNMENT, LARGEST
from pyvmm.machine.handle import Handle
from pyvmm.machine.memory import Mapping, anonymous

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SLOT: int = lib.SWAPSTORE_SLOT
_OBSERVERS = ("swapstore_on_write", "swapstore_on_discard")


class SwapStore:
    """`size` bytes for a guest's swapped pages, all zero at first; the host gives them only as they are written.

    They are private anonymous memory, `memory`, for the same reason as RAM: the host gives that huge pages.

    `backing` names a file that holds them instead of host memory. It must not exist, or be empty: what is in a file is
    never shown to a guest, nor overwritten. It is locked (flock(2)), sparse, and emptied at the end; if it was not
    there before it is its owner's alone, and removed at the end. A VMM that is killed leaves it.

    Raises ConfigError for a size that cannot be, and for a file with something in it; HostError if the host refuses,
    the file is in use or its file system has less room than `size`.
    """

    def __init__(self, size: int, backing: str | os.PathLike[str] | None = None) -> None:
        if not 0 < size <= LARGEST or size % ALIGNMENT:
            raise ConfigError(
                f"a swap store of {size} bytes: it must be a multiple of 2 MiB, and at most {LARGEST >> 40} TiB"
            )
        self.size = size
        self.backing = None if backing is None else os.fspath(backing)
        self._created = self._sized = False
        self._handle: Handle | None = None
        self.fd = -1
        self.memory: Mapping | None = None
        try:
            if self.backing is None:
                self.memory = anonymous(size, "a swap store")
                pointer = ffi.cast("void *", self.memory.address)
                made = lib.swapstore_create_memory(pointer, size)
            else:
                made = lib.swapstore_create(self._open(self.backing), size)
            self._handle = Handle(made, lib.swapstore_destroy, "the swap store")
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> int:
        try:
            self.fd = self._create(path)
            _lock(self.fd, path)
            info = os.fstat(self.fd)
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(f"swap file {path}: not a regular file")
            if info.st_size:
                raise ConfigError(
                    f"swap file {path} has {info.st_size} bytes, and is not overwritten; remove it, or name another"
                )
            host = os.fstatvfs(self.fd)
            room = host.f_bavail * host.f_frsize
            if room < self.size:
                raise HostError(
                    errno.ENOSPC,
                    f"swap file {path}: {self.size} bytes, and its file system has {room}",
                )
            os.ftruncate(self.fd, self.size)
            self._sized = True
        except HostError:
            raise
        except OSError as error:
            raise HostError(error.errno, f"swap file {path}: {error.strerror}") from error
        return self.fd

    def _create(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        self._created = True
        return fd

    @property
    def handle(self) -> Handle:
        """Of the `struct swapstore`."""
        assert self._handle is not None
        return self._handle

    @property
    def _c(self) -> Any:
        return self.handle.pointer

    @property
    def slots(self) -> int:
        """How many pages it has room for; slot 0 is the header of a Linux swap area."""
        return self.size // SLOT

    @property
    def bytes_used(self) -> int:
        """What the host has given for it so far, less what came back; of memory, what it has not swapped out itself.

        A huge page counts in whole, but for what was discarded of it. Counted anew each time: 0.16 s for 1 TiB. Raises
        StateError once it is closed.
        """
        with self.handle as store:
            return int(lib.swapstore_bytes(store))

    def written(self, slot: int) -> bool:
        """Whether there is such a slot and it holds data. Raises StateError once it is closed."""
        with self.handle as store:
            return bool(lib.swapstore_written(store, slot))

    def disk(self) -> memoryview | int:
        """What a disk over it (a `VirtioBlk`) takes. Raises StateError once it is closed."""
        self.handle.check()
        if self.memory is None:
            return self.fd
        return memoryview(self.memory.map)[self.memory.skip :][: self.size]

    def watch(self, disk: Any) -> None:
        """Has a disk over it (a `VirtioBlk`) tell it of writes and discards; the disk is closed first."""
        store = self.handle.pointer
        on_write, on_discard = (ffi.addressof(lib, name) for name in _OBSERVERS)
        disk.observe(on_write, on_discard, store)

    def close(self) -> None:
        """Gives all of it back; a guest that has it mapped keeps that. May be called twice."""
        if self._handle is not None:
            self._handle.release()
        self.memory = None
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            if self.backing is not None:
                self._clear(fd, self.backing)
        finally:
            os.close(fd)

    def _clear(self, fd: int, path: str) -> None:
        """The lock is held until the descriptor is closed, so that nobody else finds it half done."""
        if self._sized:
            os.ftruncate(fd, 0)
        if self._created and _is_same(fd, path):
            os.unlink(path)


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise HostError(errno.EBUSY, f"swap file {path} is in use, maybe by another VM") from error


def _is_same(fd: int, path: str) -> bool:
    try:
        named, own = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)
