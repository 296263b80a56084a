# SPDX-License-Identifier: Apache-2.0
"""What a guest prints, awaited text by text; and a terminal to run pyvmm on."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A bound for guests that hang, in seconds; a boot takes about 5.
SECONDS = 120.0
#: Of the terminals here.
ROWS, COLUMNS = 37, 101
PYVMM = (sys.executable, "-m", "pyvmm")


class Stream:
    """The reading side of a pipe or a terminal. `data` is everything read so far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.data = b""
        self._seen = 0

    def pump(self, seconds: float) -> bool:
        """Reads what is there, waiting at most that long; False if there was nothing."""
        if not select.select([self.fd], [], [], max(seconds, 0))[0]:
            return False
        try:
            piece = os.read(self.fd, 65536)
        except OSError:  # a terminal whose other side is gone
            return False
        self.data += piece
        return bool(piece)

    def expect(self, text: str, seconds: float = SECONDS) -> str:
        """Waits for the text behind what was awaited before; returns all up to its end."""
        wanted = text.encode()
        deadline = time.monotonic() + seconds
        while (at := self.data.find(wanted, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} did not come; there was:\n{self.text}"
            if not self.pump(0.5):
                time.sleep(0.02)  # at the end of a pipe, reading comes back at once
        start, self._seen = self._seen, at + len(wanted)
        return self.data[start : self._seen].decode("utf-8", "replace")

    def quiet(self, seconds: float) -> bytes:
        """What comes within that time."""
        before = len(self.data)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.pump(left)
        return self.data[before:]

    @property
    def text(self) -> str:
        """Everything read so far."""
        return self.data.decode("utf-8", "replace")


class Terminal(Stream):
    """pyvmm on a pseudo-terminal that outlives it, so that its settings can be looked at."""

    def __init__(self, *arguments: str) -> None:
        master, self.slave = pty.openpty()
        super().__init__(master)
        termios.tcsetwinsize(self.slave, (ROWS, COLUMNS))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*PYVMM, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self.slave)

    def type(self, keys: str) -> None:
        """Types."""
        os.write(self.fd, keys.encode())

    def finish(self) -> int:
        """pyvmm's exit status, once it is over."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"pyvmm did not end:\n{self.text}"
            self.pump(0.2)
        while self.pump(0):
            pass
        return self.process.returncode

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self.fd)
        os.close(self.slave)


class Process(Stream):
    """pyvmm in the background, its output in a pipe; `prefix` is put before the command."""

    def __init__(
        self, *arguments: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, *PYVMM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        super().__init__(self.process.stdout.fileno())

    def finish(self) -> int:
        """pyvmm's exit status, once it is over."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"pyvmm did not end:\n{self.text}"
            if not self.pump(0.2):
                time.sleep(0.02)
        while self.pump(0):
            pass
        return self.process.returncode

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout):
            assert file is not None
            file.close()
