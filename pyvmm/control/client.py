# SPDX-License-Identifier: Apache-2.0
"""Speaks to running VMs over their control sockets."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from pyvmm.control import protocol
from pyvmm.control.protocol import ProtocolError
from pyvmm.control.runtime_dir import RuntimeDir, check_name, place
from pyvmm.errors import ConfigError, Error, HostError, StateError
from pyvmm.quantity import check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How long an answer may take, seconds. A symcall has a deadline of its own, far below.
TIMEOUT = 60.0
#: The same when all VMs are asked who they are.
LIST_TIMEOUT = 5.0
#: All together, as long as each that is left gets at least so much.
LIST_TOTAL = 20.0
LIST_LEAST = 0.5
#: How often the state of a silent VM's process is looked at, seconds, and how often in a row it may be stopped.
LOOK = 1.0
STOPPED_LOOKS = 3
#: How long a VM that was stopped may take to be gone, seconds.
GONE_SECONDS = 60.0

_CHUNK = 1 << 16
_MAX_FDS = 4
_FD = struct.Struct("i")
_UCRED = struct.Struct("iII")


class Client:
    """A connection to one VM. A context manager; one request at a time.

    `cut` says why the last answer was not all, where it was not: a guest may have more than one
    answer holds.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.name = name
        self._connection = connection
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._number = 0
        self._timeout = connection.gettimeout()
        self.cut: str | None = None

    def call(self, op: str, **params: Any) -> Any:
        """Return the result of an operation (docs/control.md).

        Raise what it raised in the VM: `SymcallError`, `StateError`, ...; StateError too if the VM
        ends meanwhile, HostError if it does not answer or its process is stopped, ProtocolError for
        an answer that is none. StateError after `close`.
        """
        try:
            return self._call(op, params)
        finally:
            self._drop_fds()

    def memory(self) -> tuple[int, list[list[int]]]:
        """Return a descriptor of the VMM's memory, and the guest's RAM in it: [gpa, size, host
        address] each.

        Read there with os.pread at the host address. The descriptor is the caller's to close; it
        reads nothing once the VMM has ended.
        """
        try:
            result = self._call("memory", {})
            if not self._fds:
                raise ProtocolError(f"{self.name} sent no descriptor of its memory")
            return self._fds.pop(0), result["ram"]
        finally:
            self._drop_fds()

    def wait_gone(self, timeout: float = GONE_SECONDS) -> None:
        """Wait until the VM has given up its socket: its name is free then.

        HostError if it takes longer.
        """
        self._check_open()
        check_seconds(timeout, "a timeout")
        until = time.monotonic() + timeout
        try:
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
                if not self._connection.recv(_CHUNK):
                    return
        except TimeoutError as error:
            raise HostError(
                errno.ETIMEDOUT, f"{self.name} is still there after {timeout:g} s"
            ) from error
        except OSError:
            pass

    def _call(self, op: str, params: dict[str, Any]) -> Any:
        self._check_open()
        self._number += 1
        given = {name: value for name, value in params.items() if value is not None}
        line = protocol.encode({"id": self._number, "op": op} | given)
        answer = protocol.decode(self._exchange(line))
        if not answer.get("ok"):
            raise protocol.error_of(answer.get("error"))
        if answer.get("id") != self._number or "result" not in answer:
            raise ProtocolError(f"{self.name} answered something that was not asked")
        cut = answer.get("cut")
        self.cut = None if cut is None else str(cut)
        return answer["result"]

    def _exchange(self, line: bytes) -> bytes:
        try:
            try:
                self._connection.settimeout(self._timeout)
                self._connection.sendall(line)
            except BrokenPipeError:
                pass  # it may have said why before it left
            return self._read_line()
        except TimeoutError as error:
            raise HostError(
                errno.ETIMEDOUT,
                f"{self.name} has not answered for {self._timeout:g} s; is its process stopped?",
            ) from error
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.EPIPE):
                raise self._ended() from error
            raise HostError(error.errno, f"{self.name}: {error.strerror}") from error

    def _check_open(self) -> None:
        if self._connection.fileno() < 0:
            raise StateError(f"this connection to {self.name} is closed")

    def _ended(self) -> StateError:
        return StateError(f"{self.name} ended before it answered")

    def _read_line(self) -> bytes:
        searched = 0
        # Of the whole answer, and not of each piece of it.
        until = None if self._timeout is None else time.monotonic() + self._timeout
        stopped = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > protocol.MAX_ANSWER:
                raise ProtocolError(f"{self.name} answers more than {protocol.MAX_ANSWER} bytes")
            left = LOOK if until is None else until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(min(left, LOOK))
            try:
                data = self._receive()
            except TimeoutError:
                stopped = stopped + 1 if is_stopped(pid := self._pid()) else 0
                if stopped == STOPPED_LOOKS:
                    raise HostError(
                        errno.ETIMEDOUT,
                        f"{self.name} cannot answer: its process is stopped; kill -CONT {pid} lets it go on",
                    ) from None
                continue
            if not data:
                raise self._ended()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _pid(self) -> int:
        """Return the process that serves, from the kernel (SO_PEERCRED, unix(7)); 0 if it is of
        another namespace.
        """
        raw = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(raw)[0])

    def _receive(self) -> bytes:
        # socket.recv_fds() of Python 3.11 takes flags and drops them.
        data, control, _, _ = self._connection.recvmsg(
            _CHUNK, socket.CMSG_SPACE(_MAX_FDS * _FD.size), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) // _FD.size * _FD.size
                self._fds += [fd for (fd,) in _FD.iter_unpack(content[:whole])]
        return data

    def _drop_fds(self) -> None:
        """Close the descriptors that nobody asked for."""
        while self._fds:
            os.close(self._fds.pop())

    def close(self) -> None:
        """End the connection."""
        self._drop_fds()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def is_stopped(pid: int) -> bool:
    """Say whether a signal or a debugger has stopped a process (proc_pid_stat(5)); False if it
    cannot be seen.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


def connect(name: str | None = None, timeout: float = TIMEOUT) -> Client:
    """Return a connection to the running VM of that name; without a name, to the only one there is.

    An answer may take `timeout` seconds in all. Raise ConfigError, which lists those that run, if
    that is none, and for a time that cannot be.
    """
    check_seconds(timeout, "a timeout")
    if name is not None:
        check_name(name)
    if not os.path.isdir(place()):
        raise ConfigError(_nothing(name, []))
    with RuntimeDir() as directory:
        if name is None:
            alive = [found for found in directory.names() if directory.is_alive(found)]
            if len(alive) != 1:
                raise ConfigError(_nothing(None, alive))
            name = alive[0]
        connection = directory.connect(name, timeout)
        if connection is None:
            alive = [found for found in directory.names() if directory.is_alive(found)]
            raise ConfigError(_nothing(name, alive))
    return Client(connection, name)


def _nothing(name: str | None, alive: list[str]) -> str:
    """Say why there is no VM to connect to."""
    what = f"no VM named {name} is running" if name is not None else "no VM is running"
    if not alive:
        return f"{what}; pyvmm run starts one, and VM.serve() makes one of a program's own known"
    if name is None:
        what = f"{len(alive)} VMs are running"
    return f"{what}; name one of: {', '.join(alive)}"


def running(timeout: float = LIST_TIMEOUT) -> list[dict[str, Any]]:
    """Return the `info` of each running VM by name; remove the sockets of dead ones.

    One that does not answer has only its `name`, the `error`, and the `state` "silent".
    """
    if not os.path.isdir(place()):
        return []
    found = []
    deadline = time.monotonic() + LIST_TOTAL
    with RuntimeDir() as directory:
        for name in directory.names():
            # Those that answer do it at once, whatever others have taken.
            left = max(min(timeout, deadline - time.monotonic()), LIST_LEAST)
            record = _info(directory, name, left)
            if record is not None:
                found.append(record)
    return found


def _info(directory: RuntimeDir, name: str, timeout: float) -> dict[str, Any] | None:
    try:
        connection = directory.connect(name, timeout)
        if connection is None:
            if directory.remove_dead(name):
                return None
            connection = directory.connect(name, timeout)
            if connection is None:
                return None
        with Client(connection, name) as client:
            return {**client.call("info")}
    except StateError:
        return None  # it ended just now
    except Error as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        return {"name": name, "state": "silent", "error": text}
