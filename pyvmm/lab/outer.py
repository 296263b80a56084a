# SPDX-License-Identifier: Apache-2.0
"""The emulator that is the outer machine, and the sockets to it. Nothing of it is on disk."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.lab import protocol, streams
from pyvmm.lab.errors import LabError

if TYPE_CHECKING:
    from pyvmm.outfile import OutFile

TAIL = 32768  # bytes of console kept for an error message
TAIL_LINES = 60  # a panic's report, with the line that says why
SCREEN_TAIL = 4096  # bytes of a terminal that an emulator draws on
CONTROL = re.compile(rb"\x1b[\[(][0-9;?]*[ -/]*[@-~]|\x1b[@-Z=>]|[\x0e\x0f]")


class Spawned(NamedTuple):
    """An emulator that was started, and our ends of what leads to it."""

    process: subprocess.Popen[bytes]
    port: socket.socket  # to the lab's first process
    console: socket.socket
    screen: int = (
        -1
    )  # a terminal that the emulator draws on: read, and of no interest until it fails
    threads: str = "single"  # "multi" if each of the lab's CPUs has one


class Outer:
    """One running emulator. `exchange` moves bytes and returns frames; `kill` ends it."""

    def __init__(self, spawned: Spawned, *, log: OutFile | None) -> None:
        self._log = log
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self._console_ended = False
        self._drawn = b""
        self._decoder = protocol.Decoder()
        self._outgoing = bytearray()
        self._process, self._port, self._console, self._screen, self.threads = spawned
        self._port.setblocking(False)
        self._console.setblocking(False)

    @property
    def pid(self) -> int:
        """The emulator's process id."""
        return self._process.pid

    def send(self, data: bytes) -> None:
        """Queue bytes for the lab's first process."""
        self._outgoing += data

    def exchange(
        self, extra: dict[int, int], seconds: float | None, *, listen: bool = True
    ) -> tuple[list[protocol.Frame], dict[int, int]]:
        """Wait for something to happen; return the frames that came and which of ``extra`` are
        ready.

        ``extra`` maps descriptors to poll(2) events. With ``listen`` off no frames are taken in,
        which is how a slow reader of the output holds the command back. Raise LabError when the
        emulator is gone.
        """
        port, console = self._port.fileno(), self._console.fileno()
        wanted = dict(extra)
        if not self._console_ended:
            wanted[console] = select.POLLIN
        if self._screen >= 0:
            wanted[self._screen] = select.POLLIN
        # A descriptor that is of no interest now stays out: poll(2) would report its end over and over.
        if listen or self._outgoing:
            wanted[port] = select.POLLIN if listen else 0
            wanted[port] |= select.POLLOUT if self._outgoing else 0
        events = streams.ready(wanted, seconds)
        if events.pop(console, 0):
            self._console_ended = not self._read_console()
        if events.pop(self._screen, 0):
            self._read_screen()
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
        self._tail.append(data)
        self._kept += len(data)
        while self._kept - len(self._tail[0]) > TAIL:
            self._kept -= len(self._tail.popleft())
        return bool(data)

    def _read_screen(self) -> bool:
        try:
            drawn = os.read(self._screen, 1 << 16)
        except OSError:
            drawn = b""
        if not drawn:
            os.close(self._screen)
            self._screen = -1
        self._drawn = (self._drawn + drawn)[-SCREEN_TAIL:]
        return bool(drawn)

    def console_tail(self) -> str:
        """Return the last lines of the outer console and of the emulator's own messages."""
        text = b"".join(self._tail).decode("utf-8", "replace").replace("\r", "")
        lines = [line for line in text.split("\n") if line.strip()]
        return "\n".join([*lines[-TAIL_LINES:], *last_words(self._drawn)])

    def failure(self, what: str) -> str:
        """Return a message with the console's last words.

        The machine is ended first, so that they are complete.
        """
        self.kill()
        tail = self.console_tail()
        return what + (
            f"; its console said last:\n{tail}" if tail else "; its console said nothing"
        )

    def kill(self) -> None:
        """End the emulator and wait for it; may be called again."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        while self._console.fileno() >= 0 and self._read_console():
            pass
        while self._screen >= 0 and self._read_screen():
            pass
        self._port.close()
        self._console.close()


def drawn_lines(drawn: bytes) -> list[str]:
    """Return the lines that a program wrote to its terminal, without the sequences that move the
    cursor.
    """
    bare = CONTROL.sub(b"", drawn).decode("utf-8", "replace").replace("\r", "\n")
    return [line.rstrip() for line in bare.split("\n") if line.strip()]


def last_words(drawn: bytes) -> list[str]:
    """Return what an emulator that draws on a terminal wrote there as it ended."""
    lines = [line for line in drawn_lines(drawn) if line.strip(" =")]
    starts = [number for number, line in enumerate(lines) if "is exiting with" in line]
    return lines[starts[-1] :] if starts else []
