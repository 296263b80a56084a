# SPDX-License-Identifier: Apache-2.0
"""Files that a program is told to write: found writable before anything starts, emptied when it
starts, not before.
"""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.errors import ConfigError, HostError

#: As many links as the kernel follows (path_resolution(7)).
LINKS = 40
STREAMS = ("standard input", "standard output", "standard error")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without O_APPEND, which comes later: one that may only be appended to (chattr(1)) cannot be emptied.
_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class OutFile:
    """The file that an option names, held open. What is in it stays until `begin`.

    `option` is how the user wrote it ("--log"). A file that is not there is made, and removed by
    `close` if it was never begun. A pipe needs a reader. ``/dev/stdout`` and ``/dev/fd/N`` are the
    descriptor itself: written behind what is there, never emptied.

    The owner of a file that was there must be this user or root: others could read what a guest
    says. In a folder that anybody may write to (``/tmp``) nobody else's link is followed, and no
    file with a second name is taken; the rules are those of fs.protected_symlinks and
    fs.protected_regular (the kernel's sysctl/fs.rst), on every kernel.

    Raises ConfigError for a file that cannot be written or may not be.
    """

    def __init__(self, option: str, path: str) -> None:
        self.option = option
        self.path = path
        self.fd = -1
        #: The folder and the name of a file that was made here, until it is begun.
        self._made: tuple[int, str] | None = None
        self._begun = False
        #: A descriptor of somebody else's, whose place in the file is theirs.
        self.shared = False
        try:
            self._open()
            self.identity = identity(os.fstat(self.fd))
        except OSError as error:
            self.close()
            raise self.refusal(_reason(error, self.path)) from error
        except BaseException:
            self.close()
            raise

    def refusal(self, reason: str) -> ConfigError:
        """Return an error that names the file."""
        return ConfigError(f"{self.option} {self.path}: {reason}")

    def _open(self) -> None:
        import fcntl  # most launches write no file

        folder, name, magic = _resolve(self.path)
        try:
            if magic and name.isdigit() and _is_own(folder):
                self.fd = fcntl.fcntl(int(name), fcntl.F_DUPFD_CLOEXEC, 0)
                self.shared = True
                if fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                    raise self.refusal("it is not open for writing")
                return
            self.fd = self._open_in(folder, name, _FLAGS & ~os.O_NOFOLLOW if magic else _FLAGS)
            if self._made is None:
                self._check(folder)
        finally:
            if self._made is None:
                os.close(folder)
        # Only the opening must not wait.
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL) & ~os.O_NONBLOCK
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags | os.O_APPEND)

    def _open_in(self, folder: int, name: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            self._made = (folder, name)
            return fd

    def _check(self, folder: int) -> None:
        info = os.fstat(self.fd)
        if stat.S_ISCHR(info.st_mode):
            return
        if stat.S_ISBLK(info.st_mode):
            raise self.refusal("it is a disk, and is not overwritten; name a file")
        if info.st_uid not in (os.geteuid(), 0):
            raise self.refusal(
                f"it belongs to user {info.st_uid}, who could read what is written to it; remove it, or name another"
            )
        if info.st_nlink > 1 and stat.S_ISREG(info.st_mode) and _is_open_to_all(os.fstat(folder)):
            raise self.refusal(
                "it has another name elsewhere, and anybody may write to its folder; name another file"
            )

    def lock(self) -> None:
        """Keep others that lock (flock(2)) from writing to it until it is closed.

        ConfigError if one does already.
        """
        import fcntl

        if self.shared or not stat.S_ISREG(os.fstat(self.fd).st_mode):
            return
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self.refusal(
                "it is in use: another process, maybe a running VM, has it; name another file"
            ) from None
        except OSError:
            return  # some network file systems have no locks

    def begin(self, *, emptied: bool = False) -> None:
        """Empty it, unless another process did: from here on it is what this run writes."""
        if not self._begun and not self.shared and not emptied:
            empty(self.fd)
        self._begun = True

    def write(self, data: bytes) -> None:
        """Write all of it. Raise HostError."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.fd, left) :]
        except OSError as error:
            raise HostError(error.errno, f"{self.option} {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of it. May be called twice."""
        if self.fd < 0:
            return
        if self._made is not None:
            folder, name = self._made
            if not self._begun and _is_named(folder, name, self.fd):
                os.unlink(name, dir_fd=folder)
            os.close(folder)
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> OutFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def refuse_streams(file: OutFile) -> None:
    """Raise ConfigError if the file is also one of the program's standard streams: two would write
    over each other.
    """
    for fd, name in enumerate(STREAMS):
        found = identity(os.fstat(fd))
        if found is not None and found == file.identity and not file.shared:
            raise file.refusal(f"it is {name} as well; nothing was changed in it")


def check(option: str, path: str) -> None:
    """Raise ConfigError if the file could not be written; change nothing."""
    OutFile(option, path).close()


def empty(fd: int) -> None:
    """Empty a regular file; of anything else there is nothing to empty."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)


def identity(info: os.stat_result) -> tuple[int, ...] | None:
    """Return a key, equal for two names of one regular file or one disk; None for a terminal or a
    pipe.
    """
    if stat.S_ISREG(info.st_mode):
        return info.st_dev, info.st_ino
    return (info.st_rdev,) if stat.S_ISBLK(info.st_mode) else None


def _reason(error: OSError, path: str) -> str:
    if error.errno == errno.EPERM:
        return "it may not be changed, or only be appended to (lsattr); name another file"
    if error.errno != errno.ENXIO:
        return error.strerror or str(error)
    if stat.S_ISFIFO(os.stat(path).st_mode):
        return "nobody reads from that pipe; start its reader first"
    return "it is a socket, or a device that is not there; name a file"


def _is_open_to_all(folder: os.stat_result) -> bool:
    """Say whether anybody may make files there and nobody but their owner may remove them, as in
    /tmp.
    """
    return folder.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH


def _is_own(folder: int) -> bool:
    """Say whether a folder holds the descriptors of this process."""
    return os.readlink(f"/proc/self/fd/{folder}") == f"/proc/{os.getpid()}/fd"


def _is_named(folder: int, name: str, fd: int) -> bool:
    try:
        found, own = os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _resolve(path: str) -> tuple[int, str, bool]:
    """Return the folder that a path leads to, opened (O_PATH), the name in it, and whether that is
    a link only the kernel can follow (/proc). Raise OSError.
    """
    left, links = path.split("/")[::-1], 0
    folder = os.open("/" if path.startswith("/") else ".", _FOLDER)
    try:
        while True:
            name = left.pop() or "."
            target = _link_at(folder, name)
            if target is None or _in_proc(folder):
                if not left:
                    return folder, name, target is not None
                flags = _FOLDER & ~os.O_NOFOLLOW if target is not None else _FOLDER
                folder = _step(folder, name, flags)
                continue
            links += 1
            if links > LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            left += target.split("/")[::-1]
            if target.startswith("/"):
                folder = _step(folder, "/", _FOLDER)
    except BaseException:
        os.close(folder)
        raise


def _step(folder: int, name: str, flags: int) -> int:
    further = os.open(name, flags, dir_fd=folder)
    os.close(folder)
    return further


def _link_at(folder: int, name: str) -> str | None:
    """Return where a link leads, None for what is none.

    Raise OSError for one that somebody else laid out.
    """
    try:
        target = os.readlink(name, dir_fd=folder)
        owner = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise
    around = os.fstat(folder)
    if _is_open_to_all(around) and owner not in (os.geteuid(), around.st_uid):
        raise OSError(errno.EACCES, f"{name} is a link of user {owner}'s, which is not followed")
    return target


def _in_proc(folder: int) -> bool:
    return os.fstat(folder).st_dev == os.stat("/proc").st_dev
