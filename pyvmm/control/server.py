# SPDX-License-Identifier: Apache-2.0
"""Serves the control socket of a VM: a thread that accepts, and one for each client."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time

from pyvmm.control.runtime_dir import BACKLOG, RuntimeDir, check_name
from pyvmm.errors import Error, HostError, LimitError
from pyvmm.machine.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.control.operations import Operations, Served

#: Clients at a time; each has a thread.
MAX_CLIENTS = BACKLOG
#: How long the answer to a request may take, seconds: the guest may be slow, a hook may hold a vCPU.
ANSWER_SECONDS = 20.0
#: Answers at a time that are more than a little: the guest says how much of them there is.
LARGE_ANSWERS = 4
LARGE_CALLS = frozenset({"tasks", "read"})
#: How long a client may take to read what it asked for, seconds.
SEND_SECONDS = 20.0
#: How long the end of a VM waits for answers that are on their way, seconds.
LAST_WORDS = 2.0
#: How long a request may go on after the machine was stopped, seconds.
STUCK_SECONDS = 30.0
#: Until the next try to accept, while the process is short of descriptors or memory, seconds.
SHORTAGE = 0.2

_CHUNK = 65536
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """Return the user that connected, from the kernel (SO_PEERCRED, unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])


class Server:
    """Serves `vm` under `name` from now on.

    Raises ConfigError for a name that is taken or cannot be, HostError.

    End it with `close`, which removes the socket and lets answers that are on their way arrive,
    then with `join`, when nothing in the VM can make a client wait any more.
    """

    def __init__(self, vm: Served, name: str) -> None:
        self.name = check_name(name)
        self._vm = vm
        self._ending = threading.Event()
        self._change = threading.Lock()
        self._clients: dict[threading.Thread, Visit] = {}
        self._large = threading.BoundedSemaphore(LARGE_ANSWERS)
        self._operations: Operations | None = None
        self._directory = RuntimeDir()
        self.path = f"{self._directory.path}/{name}.sock"
        try:
            self._listener = self._directory.claim(name)
        except BaseException:
            self._directory.close()
            raise
        self._thread = Thread(self._accept, "control")
        self._thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # shut down
                if error.errno != errno.ECONNABORTED:
                    self._ending.wait(SHORTAGE)
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        """Give a client its thread, for which the one that has been silent longest goes where there
        are too many.
        """
        visit = Visit(connection)
        thread = Thread(self._attend, "control-client", (visit,))
        with self._change:
            room = not self._ending.is_set() and (
                len(self._clients) < MAX_CLIENTS or self._send_one_away()
            )
            if room:
                self._clients[thread] = visit
        try:
            if room:
                thread.start()
                return
        except HostError:  # the host gives no more threads
            with self._change:
                self._clients.pop(thread, None)
        refuse(connection)

    def _send_one_away(self) -> bool:
        """Send away one of those without a request under way, with the lock held.

        Return False if all have one.
        """
        silent = [
            (visit.since, thread) for thread, visit in self._clients.items() if not visit.busy
        ]
        if not silent:
            return False
        _, thread = min(silent, key=lambda one: one[0])
        visit = self._clients.pop(thread)
        visit.over = True
        _shut(visit.connection, socket.SHUT_RDWR)
        return True

    def _attend(self, visit: Visit) -> None:
        """Answer until the client leaves, on its thread."""
        try:
            client = Client(visit, self._operations_now(), self._change, self._large)
            if client.check():
                client.serve()
        except OSError:
            pass  # it has gone, or reads too slowly
        finally:
            with self._change:
                self._clients.pop(threading.current_thread(), None)
            visit.connection.close()

    def _operations_now(self) -> Operations:
        """Load the operations; with them JSON is loaded, which a VM that nobody talks to never
        needs.
        """
        from pyvmm.control.operations import Operations

        with self._change:
            if self._operations is None:
                self._operations = Operations(self._vm, self.name)
            return self._operations

    def close(self) -> None:
        """Remove the socket, take no new clients and no new requests.

        May be called twice, from any thread.
        """
        with self._change:
            if self._ending.is_set():
                return
            self._ending.set()
            connections = [visit.connection for visit in self._clients.values()]
        # Nobody listens from here on, so whatever still listens there under the name is a successor's.
        for part in (self._listener, *connections):
            _shut(part, socket.SHUT_RD)
        try:
            self._directory.remove_dead(self.name)
        except Error:
            pass  # the next one who meets the socket removes it

    def join(self) -> None:
        """Wait until the clients have their answers, not longer than `LAST_WORDS`, and free
        everything.

        Afterwards nothing here uses the VM any more. Raise HostError if a request does not end.
        """
        if self._directory.fd < 0:
            return
        self._thread.join()
        self._listener.close()
        if not self._clients_left(LAST_WORDS):
            with self._change:
                connections = [visit.connection for visit in self._clients.values()]
            for connection in connections:
                _shut(connection, socket.SHUT_RDWR)
            if not self._clients_left(STUCK_SECONDS):
                raise HostError(
                    errno.ETIMEDOUT,
                    f"a request to the control socket did not end in {STUCK_SECONDS:.0f} s; the VM is kept",
                )
        self._directory.close()

    def _clients_left(self, seconds: float) -> bool:
        """Return whether all have, after that time at most."""
        deadline = time.monotonic() + seconds
        with self._change:
            threads = list(self._clients)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def _shut(connection: socket.socket, how: int) -> None:
    """Wake whoever waits there."""
    try:
        connection.shutdown(how)
    except OSError:
        pass  # gone already


def refuse(connection: socket.socket) -> None:
    """Say that there are too many clients, to one that reads it."""
    from pyvmm.control import protocol

    error = HostError(errno.EBUSY, f"{MAX_CLIENTS} clients are asking already; try again")
    answer = {"id": None, "ok": False, "error": protocol.error_record(error)}
    try:
        connection.setblocking(False)
        connection.send(protocol.encode(answer))
    except OSError:
        pass  # it does not
    connection.close()


def is_large(request: dict[str, Any]) -> bool:
    """Return whether the guest says how much the answer to a request is."""
    what = request.get("call") if request.get("op") == "symcall" else request.get("op")
    return isinstance(what, str) and what in LARGE_CALLS


class Visit:
    """A client's connection: whether a request is under way, since when that is so, and whether it
    was sent away.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.busy = False
        self.over = False
        self.since = time.monotonic()


class Client:
    """One connection, seen from the VM."""

    def __init__(
        self,
        visit: Visit,
        operations: Operations,
        change: threading.Lock,
        large: threading.BoundedSemaphore,
    ) -> None:
        from pyvmm.control import protocol

        self._visit = visit
        self._connection = visit.connection
        self._operations = operations
        self._change = change
        self._large = large
        self._protocol = protocol

    def check(self) -> bool:
        """Return whether the user may speak to us: the VM's own, or root."""
        uid, ours = peer_uid(self._connection), os.geteuid()
        if uid in (ours, 0):
            return True
        error = self._protocol.ProtocolError(f"this VM belongs to user {ours}, not to user {uid}")
        self._send(self._failure(None, error))
        return False

    def serve(self) -> None:
        """Answer line by line until the client leaves."""
        buffer, skipping = bytearray(), False
        while chunk := self._receive():
            buffer += chunk
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                if skipping:
                    skipping = False
                elif len(line) > self._protocol.MAX_REQUEST:
                    self._refuse_length()
                elif line.strip():
                    self._answer(line)
            if len(buffer) > self._protocol.MAX_REQUEST:
                # The rest is read and dropped: a connection closed on what was not read loses the answer.
                if not skipping:
                    self._refuse_length()
                skipping = True
            if skipping:
                buffer.clear()

    def _refuse_length(self) -> None:
        limit = self._protocol.MAX_REQUEST
        self._send(
            self._failure(
                None, self._protocol.ProtocolError(f"a line is longer than {limit} bytes")
            )
        )

    def _receive(self) -> bytes:
        self._connection.settimeout(None)
        return self._connection.recv(_CHUNK)

    def _answer(self, line: bytes) -> None:
        with self._change:
            if self._visit.over:
                raise ConnectionAbortedError  # another has its place
            self._visit.busy = True
        try:
            self._answer_now(line)
        finally:
            with self._change:
                self._visit.busy = False
                self._visit.since = time.monotonic()

    def _answer_now(self, line: bytes) -> None:
        from pyvmm.machine.question import Question

        number: Any = None
        fds: tuple[int, ...] = ()
        held = False
        question = Question(ANSWER_SECONDS, self._has_gone)
        try:
            request = self._protocol.decode_request(line)
            number = self._identifier(request)
            if is_large(request):
                held = self._large.acquire(timeout=question.left)
                if not held:
                    raise LimitError(f"{LARGE_ANSWERS} such requests are under way; try again")
            reply = self._operations.run(request, question)
            fds = reply.fds
            answer = {"id": number, "ok": True, "result": reply.result}
            if reply.cut is not None:
                answer["cut"] = reply.cut
        except Exception as error:
            # Whatever goes wrong, in a symcall's function of the user's too, is the client's to hear.
            answer = self._failure(number, error)
        try:
            self._send(answer, fds)
        finally:
            for fd in fds:
                os.close(fd)
            if held:
                self._large.release()

    def _has_gone(self) -> bool:
        """Return whether the client closed its end; one that only has nothing more to say still
        reads.
        """
        poll = select.poll()
        poll.register(self._connection, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def _identifier(self, request: dict[str, Any]) -> Any:
        number = request.get("id")
        if number is not None and not isinstance(number, (int, str)):
            raise self._protocol.ProtocolError("'id' is to be a number or a text")
        return number

    def _failure(self, number: Any, error: BaseException) -> dict[str, Any]:
        return {"id": number, "ok": False, "error": self._protocol.error_record(error)}

    def _send(self, answer: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        line = self._protocol.encode(answer)
        if len(line) > self._protocol.MAX_ANSWER:
            error = LimitError(
                f"the answer has {len(line)} bytes, and {self._protocol.MAX_ANSWER} are the most"
            )
            line = self._protocol.encode(self._failure(answer["id"], error))
        self._connection.settimeout(SEND_SECONDS)
        if fds:
            sent = socket.send_fds(self._connection, [line], list(fds))
            line = line[sent:]
        if line:
            self._connection.sendall(line)
