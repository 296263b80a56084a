# SPDX-License-Identifier: Apache-2.0
"""The file behind a swap disk: whose it is, what may be in it, and its way back."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from pyvmm._core import lib
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine.memory import File

#: Behind the pages, where no guest gets to: tells a file that a killed VMM left from one with somebody's data.
MARK = b"pyvmm swap file, version 1\n%d bytes\n%s\n"
MARK_BYTES = 4096
_KINDS = (b"was there", b"made by pyvmm")


class SwapFile:
    """A file of `size` bytes that is this VMM's alone, all zero. `fd` is it; `path` names it.

    It must not exist, be empty, or be left by a VMM that was killed, which its last page says. It
    is this user's and nobody else's: no link, no second name, no right for others. It is locked
    (flock(2)).

    `allocated` tells whether the file system has set all of its blocks aside, so that writing to it
    cannot fail later for want of room. Those that cannot, and tmpfs, where that would take the
    memory, give blocks as they are written.

    Raises ConfigError for a file that is not taken, HostError if the host refuses, the file is in
    use or its file system has less room than `size`.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.fd = -1
        self.allocated = False
        self._made = self._taken = False
        try:
            self._open()
        except OSError as error:
            self.close()
            if isinstance(error, HostError):
                raise
            raise HostError(error.errno, f"swap file {path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    @property
    def file(self) -> File:
        """The open file, for whoever maps it. Its owner stays this object."""
        return File(self.fd, self.size, f"swap file {self.path}")

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(f"swap file {self.path} {reason}")

    def _open(self) -> None:
        self.fd = self._create()
        if not self._made:
            self._check()
        self._lock()
        self._take_over()
        host = os.fstatvfs(self.fd)
        room = host.f_bavail * host.f_frsize
        if room < self.size:
            raise HostError(
                errno.ENOSPC,
                f"swap file {self.path}: {self.size} bytes, and its file system has {room}",
            )
        # The mark comes with the size: at no time is it a file that cannot be told from another.
        self._taken = True
        mark = MARK % (self.size, _KINDS[self._made])
        os.pwrite(self.fd, mark.ljust(MARK_BYTES, b"\0"), self.size)
        self._allocate()

    def _create(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        try:
            fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._open_link_free(flags)
        self._made = True
        return fd

    def _open_link_free(self, flags: int) -> int:
        try:
            return os.open(self.path, flags)
        except OSError as error:
            if error.errno == errno.ELOOP and os.path.islink(self.path):
                raise self._refusal(
                    "is a symbolic link, which is not followed; name the file itself"
                ) from None
            raise

    def _check(self) -> None:
        """Raise ConfigError if others may read or change it: a guest's memory goes into it."""
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode):
            raise self._refusal("is not a regular file")
        if info.st_uid not in (os.geteuid(), 0):
            raise self._refusal(
                f"belongs to user {info.st_uid}, who could read the guest's memory in it; remove it, or name another"
            )
        if info.st_mode & 0o077:
            raise self._refusal(
                f"may be read or written by others (mode {stat.S_IMODE(info.st_mode):04o}), and a guest's memory goes "
                "into it; chmod 600 it, or remove it"
            )
        if info.st_nlink > 1:
            raise self._refusal("has another name, by a hard link; remove it, or name another")

    def _lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HostError(
                errno.EBUSY, f"swap file {self.path} is in use, maybe by another VM"
            ) from error

    def _take_over(self) -> None:
        """Empty what a VMM that is gone has left.

        Its lock is gone as well, or we had not come here.
        """
        found = os.fstat(self.fd).st_size
        if not found:
            return
        size = max(found - MARK_BYTES, 0)
        mark = os.pread(self.fd, MARK_BYTES, size).rstrip(b"\0")
        if mark not in [MARK % (size, kind) for kind in _KINDS]:
            raise self._refusal(
                f"has {found} bytes, and is not overwritten; remove it, or name another"
            )
        self._made = mark.endswith(_KINDS[True] + b"\n")
        os.ftruncate(self.fd, 0)

    def _allocate(self) -> None:
        error = -lib.swapstore_allocate(self.fd, self.size)
        if error == errno.ENOSPC:
            raise HostError(
                error, f"swap file {self.path}: its file system has no room for {self.size} bytes"
            )
        self.allocated = not error

    def close(self) -> None:
        """Empty it, and remove it if pyvmm made it.

        The lock is held to the end. May be called twice.
        """
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            if self._taken:
                os.ftruncate(fd, 0)
            if self._made and _is_same(fd, self.path):
                os.unlink(self.path)
        finally:
            os.close(fd)


def _is_same(fd: int, path: str) -> bool:
    try:
        named, own = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)
