# SPDX-License-Identifier: Apache-2.0
"""The caller's terminal while a command in the lab has it: raw, its size passed on, always
restored.
"""

from __future__ import annotations

import os
import signal
import termios
import time
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType, TracebackType

ESCAPE = 0x1D  # Ctrl-]; three of them within a second end the lab
ESCAPE_COUNT = 3


def size_of(fd: int) -> tuple[int, int]:
    """Return rows and columns of a terminal. Raise OSError for what is none."""
    size = os.get_terminal_size(fd)
    return size.lines, size.columns


class RawTerminal:
    """Puts a terminal into raw mode for the length of a `with`, and watches its size.

    ``wakeup`` is a descriptor that becomes readable when the size has changed. Outside the main
    thread, where Python allows no signal handler, the size is not followed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] = []
        self._handler: Any = None
        self._escapes: list[float] = []
        self.wakeup, self._bell = -1, -1

    def __enter__(self) -> RawTerminal:
        self._saved = termios.tcgetattr(self._fd)
        self.wakeup, self._bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._handler = signal.signal(signal.SIGWINCH, self._resized)
        except ValueError:
            self._handler = None
        tty.setraw(self._fd)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)
        if self._handler is not None:
            signal.signal(signal.SIGWINCH, self._handler)
        os.close(self.wakeup)
        os.close(self._bell)

    def _resized(self, number: int, at: FrameType | None) -> None:
        try:
            os.write(self._bell, b"\0")
        except BlockingIOError:
            pass

    def size(self) -> tuple[int, int]:
        """Return rows and columns now; silence `wakeup`."""
        try:
            os.read(self.wakeup, 4096)
        except BlockingIOError:
            pass
        return size_of(self._fd)

    def escaped(self, typed: bytes) -> bool:
        """Return whether the user asked for the end of the lab with what was typed last."""
        now = time.monotonic()
        for byte in typed:
            self._escapes = [*self._escapes, now] if byte == ESCAPE else []
        self._escapes = self._escapes[-ESCAPE_COUNT:]
        return len(self._escapes) == ESCAPE_COUNT and now - self._escapes[0] < 1
