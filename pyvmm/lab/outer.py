# SPDX-License-Identifier: Apache-2.0
"""The QEMU process that is the outer machine, and the sockets to it. Nothing of it is on disk."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections import deque
from typing import TYPE_CHECKING

from pyvmm.lab import protocol, qemu, streams
from pyvmm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from pyvmm.lab.image import Image

TAIL = 32768  # bytes of console kept for an error message
TAIL_LINES = 60  # a panic's report, with the line that says why


class Outer:
    """One running QEMU. `exchange` moves bytes and returns frames; `kill` ends it."""

    def __init__(
        self,
        image: Image,
        *,
        cpus: int,
        memory: int,
        icount: bool,
        shares: Sequence[str],
        log: BinaryIO | None,
    ) -> None:
        self._log = log
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self._console_ended = False
        self._decoder = protocol.Decoder()
        self._outgoing = bytearray()
        self._port, port = socket.socketpair()
        self._console, console = socket.socketpair()
        self._port.setblocking(False)
        self._console.setblocking(False)
        with port, console, contextlib.ExitStack() as undo:
            undo.enter_context(self._port)
            undo.enter_context(self._console)
            argv = qemu.command(
                image,
                cpus=cpus,
                memory=memory,
                icount=icount,
                shares=shares,
                port_fd=port.fileno(),
                console_fd=console.fileno(),
            )
            self._process = start(argv, port.fileno(), console.fileno())
            undo.pop_all()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    def send(self, data: bytes) -> None:
        """Queues bytes for the lab's first process."""
        self._outgoing += data

    def exchange(
        self, extra: dict[int, int], seconds: float | None, *, listen: bool = True
    ) -> tuple[list[protocol.Frame], dict[int, int]]:
        """Waits for something to happen; returns the frames that came and which of ``extra`` are ready.

        ``extra`` maps descriptors to poll(2) events. With ``listen`` off no frames are taken in, which
        is how a slow reader of the output holds the command back. Raises LabError when QEMU is gone.
        """
        port, console = self._port.fileno(), self._console.fileno()
        wanted = dict(extra)
        if not self._console_ended:
            wanted[console] = select.POLLIN
        # A descriptor that is of no interest now stays out: poll(2) would report its end over and over.
        if listen or self._outgoing:
            wanted[port] = select.POLLIN if listen else 0
            wanted[port] |= select.POLLOUT if self._outgoing else 0
        events = streams.ready(wanted, seconds)
        if events.pop(console, 0):
            self._console_ended = not self._read_console()
        happened = events.pop(port, 0)
        if happened and self._outgoing:
            self._flush()
        frames = self._receive() if happened & (select.POLLIN | select.POLLHUP) and listen else []
        return frames, events

    def _flush(self) -> None:
        try:
            del self._outgoing[: self._port.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise LabError(self.failure("the outer machine has gone")) from error

    def _receive(self) -> list[protocol.Frame]:
        try:
            data = self._port.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise LabError(self.failure("the outer machine ended by itself"))
        return list(self._decoder.feed(data))

    def _read_console(self) -> bool:
        try:
            data = self._console.recv(1 << 16)
        except OSError:
            return False
        if self._log is not None:
            self._log.write(data)
            self._log.flush()
        self._tail.append(data)
        self._kept += len(data)
        while self._kept - len(self._tail[0]) > TAIL:
            self._kept -= len(self._tail.popleft())
        return bool(data)

    def console_tail(self) -> str:
        """The last lines of the outer console and of QEMU's own messages."""
        text = b"".join(self._tail).decode("utf-8", "replace").replace("\r", "")
        lines = [line for line in text.split("\n") if line.strip()]
        return "\n".join(lines[-TAIL_LINES:])

    def failure(self, what: str) -> str:
        """A message with the console's last words. The machine is ended first, so that they are complete."""
        self.kill()
        tail = self.console_tail()
        return what + (
            f"; its console said last:\n{tail}" if tail else "; its console said nothing"
        )

    def kill(self) -> None:
        """Ends QEMU and waits for it; may be called again."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        while self._console.fileno() >= 0 and self._read_console():
            pass
        self._port.close()
        self._console.close()


def start(argv: list[str], port: int, console: int) -> subprocess.Popen[bytes]:
    """Starts QEMU, which inherits the two descriptors. What it says itself goes to the console too."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(port, console),
            start_new_session=True,  # the terminal's Ctrl-C is for us, and we end it
        )
    except OSError as error:
        raise LabError(f"cannot start '{argv[0]}': {error.strerror}") from error
