# SPDX-License-Identifier: Apache-2.0
"""The user's directory of control sockets, NAME.sock each: found, checked, and kept free of those
of dead VMs.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from pyvmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

SUFFIX = ".sock"
LOCK = ".lock"
MAX_NAME = 64
#: Connections that wait to be accepted; a full queue still shows that somebody listens.
BACKLOG = 128
#: The lock is held for a few system calls; whoever holds it longer was stopped in the middle.
LOCK_SECONDS = 10.0
LOCK_POLL = 0.005
QUEUE_POLL = 0.02

_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def check_name(name: str) -> str:
    """Return the name, if a VM may have it. Raise ConfigError."""
    if not name or len(name) > MAX_NAME or not set(name) <= _LETTERS or name[0] in ".-":
        raise ConfigError(
            f"{name!r} cannot be the name of a VM: take 1 to {MAX_NAME} letters, digits, dots, dashes or underscores; "
            "the first is no dot and no dash"
        )
    return name


def default_name() -> str:
    """Return the name of a VM that was given none: vm-PID."""
    return f"vm-{os.getpid()}"


def place() -> str:
    """Return the directory's path, whether or not it is there.

    $XDG_RUNTIME_DIR/pyvmm, else /run/user/UID/pyvmm, where the parent is there and the user's own
    (XDG Base Directory Specification 0.8); else pyvmm-UID among the temporary files.
    """
    uid = os.geteuid()
    for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if os.path.isabs(parent) and _is_own_directory(parent, uid):
            return os.path.join(parent, "pyvmm")
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"pyvmm-{uid}")


def _is_own_directory(path: str, uid: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


class RuntimeDir:
    """The directory, opened and found safe: the user's own, closed to others, no symbolic link.

    Everything in it is named relative to the descriptor, so that what was checked is what is used,
    and a path of any length will do. Raises HostError if it is unsafe or cannot be made. A context
    manager.
    """

    def __init__(self) -> None:
        self.path = place()
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise HostError(
                error.errno,
                f"{self.path} for control sockets cannot be made: {error.strerror}; "
                "set XDG_RUNTIME_DIR to a directory of yours",
            ) from error
        self.fd = self._open()
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.path, flags)
        except OSError as error:
            text = "it is no directory" if error.errno == errno.ENOTDIR else error.strerror
            raise HostError(
                error.errno,
                f"{self.path} cannot hold control sockets: {text}; "
                "remove it, or set XDG_RUNTIME_DIR to a directory of yours",
            ) from error

    def _check(self) -> None:
        found = os.fstat(self.fd)
        if found.st_uid != os.geteuid():
            raise HostError(
                errno.EPERM,
                f"{self.path} belongs to user {found.st_uid}, who could read and change what is said on control "
                "sockets there; set XDG_RUNTIME_DIR to a directory of yours",
            )
        if found.st_mode & 0o077:
            raise HostError(
                errno.EPERM,
                f"{self.path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}); "
                f"run: chmod 700 {self.path}",
            )

    def names(self) -> list[str]:
        """Return the names of all sockets that are there, those of dead VMs too."""
        found = []
        for entry in os.listdir(self.fd):
            name = entry.removesuffix(SUFFIX)
            if name != entry and name[:1] not in ".-" and self._is_socket(name):
                found.append(name)
        return sorted(found)

    def _is_socket(self, name: str) -> bool:
        try:
            found = os.stat(name + SUFFIX, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISSOCK(found.st_mode)

    def _address(self, name: str) -> str:
        """Return a path that fits into sun_path, however long the directory's own is."""
        return f"/proc/self/fd/{self.fd}/{name}{SUFFIX}"

    def connect(self, name: str, timeout: float | None = None) -> socket.socket | None:
        """Return a connection to the VM of that name; None if there is none or it is dead.

        Waits up to `timeout` seconds where many come at once; that is the timeout of the connection
        too. HostError.
        """
        import socket

        deadline = time.monotonic() + (timeout or 0)
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(self._address(name))
                return connection
            except OSError as error:
                connection.close()
                if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                    return None
                # The queue of those that wait is full, for which a socket with a timeout does not wait.
                if error.errno != errno.EAGAIN or time.monotonic() >= deadline:
                    where = f"{self.path}/{name}{SUFFIX}"
                    raise HostError(error.errno, f"{where}: {error.strerror}") from error
            except BaseException:
                connection.close()
                raise
            time.sleep(QUEUE_POLL)

    def is_alive(self, name: str) -> bool:
        """Return whether somebody listens: the kernel refuses a connection once the listener's
        process is gone.
        """
        try:
            connection = self.connect(name, 0)
        except HostError as error:
            if error.errno != errno.EAGAIN:
                raise
            return True  # its queue is full
        if connection is None:
            return False
        connection.close()
        return True

    def locked(self) -> _Lock:
        """Hold a lock while a name is looked at and then taken or removed, so that no other process
        comes in between.
        """
        return _Lock(self)

    def claim(self, name: str) -> socket.socket:
        """Return a listening socket of that name, mode 0600.

        Takes the place of a dead VM's. Raise ConfigError if a running VM has the name, HostError if
        that fails.
        """
        import socket

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The name in the directory gets its mode from the socket's own inode.
            os.fchmod(listener.fileno(), 0o600)
            with self.locked():
                self.refuse_running(name)
                self._unlink(name)
                listener.bind(self._address(name))
                listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if isinstance(error, HostError):
                raise
            raise HostError(error.errno, f"{self.path}/{name}{SUFFIX}: {error.strerror}") from error
        except BaseException:
            listener.close()
            raise
        return listener

    def refuse_running(self, name: str) -> None:
        """Raise ConfigError if a VM of that name runs."""
        if self._is_socket(name) and self.is_alive(name):
            raise ConfigError(
                f"a VM named {name} is running already; choose another name, or end it: pyvmm stop {name}"
            )

    def remove_dead(self, name: str) -> bool:
        """Remove the socket of a VM that is gone; False if one runs."""
        with self.locked():
            if self.is_alive(name):
                return False
            self._unlink(name)
            return True

    def give_up(self, name: str) -> None:
        """Remove one's own socket, while one still listens: who comes later finds none."""
        with self.locked():
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        if not self._is_socket(name):
            return  # what is no socket is not ours to remove
        try:
            os.unlink(name + SUFFIX, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> RuntimeDir:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Lock:
    """flock(2) on a file of the directory; the kernel opens it again when its holder dies."""

    def __init__(self, directory: RuntimeDir) -> None:
        self._directory = directory
        self._fd = -1

    def __enter__(self) -> _Lock:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        where = f"{self._directory.path}/{LOCK}"
        try:
            self._fd = os.open(LOCK, flags, 0o600, dir_fd=self._directory.fd)
        except OSError as error:
            raise HostError(error.errno, f"{where}: {error.strerror}") from error
        for _ in self._tries():
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                time.sleep(LOCK_POLL)
        self.__exit__()
        raise HostError(
            errno.EWOULDBLOCK,
            f"{where} has been held for {LOCK_SECONDS:.0f} s; see who does: fuser {where}",
        )

    @staticmethod
    def _tries() -> Iterator[None]:
        deadline = time.monotonic() + LOCK_SECONDS
        yield
        while time.monotonic() < deadline:
            yield

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        self._fd = -1


def refuse_taken(name: str) -> None:
    """Raise ConfigError if a running VM has the name. Costs one look at a file if none has.

    For a start that is not to begin in vain; `RuntimeDir.claim` decides.
    """
    check_name(name)
    if os.path.lexists(os.path.join(place(), name + SUFFIX)):
        with RuntimeDir() as directory:
            directory.refuse_running(name)
