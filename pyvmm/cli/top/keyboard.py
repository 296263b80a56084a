# SPDX-License-Identifier: Apache-2.0
"""The keys of a terminal one by one, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import select
import signal
import termios
import time
from typing import Any

#: End the program in order, so that the terminal is left as it was.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
QUIT = b"qQ"
_LOCAL, _CHARACTERS = 3, 6
#: The setting of characters that do nothing: a key that stopped or killed the program would leave
#: the terminal as it is now.
_NOTHING = b"\0"


class Keyboard:
    """Keys from a descriptor while it is entered; one that is no terminal has none.

    On the main thread.

    Signals that end the program raise meanwhile: KeyboardInterrupt for ctrl-c, SystemExit for the
    others.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._modes: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._ending: int | None = None
        self._wake: tuple[int, int] = (-1, -1)
        self._wake_before = -1

    def __enter__(self) -> Keyboard:
        # A signal that comes just before select(2) would find it asleep: Python's handler runs only afterwards.
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake_before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for number in ENDING:
            # nohup(1) asks for a hang-up to be ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._end) or signal.SIG_DFL
        if os.isatty(self._fd):
            self._modes = termios.tcgetattr(self._fd)
            modes = termios.tcgetattr(self._fd)
            modes[_LOCAL] &= ~(termios.ICANON | termios.ECHO)
            for key in (termios.VSUSP, termios.VQUIT):
                modes[_CHARACTERS][key] = _NOTHING
            termios.tcsetattr(self._fd, termios.TCSADRAIN, modes)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._modes is not None:
            try:
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._modes)
            except termios.error:
                pass  # the terminal is gone
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wake_before)
        for fd in self._wake:
            os.close(fd)

    def _end(self, number: int, frame: object) -> None:
        self._ending = number
        self._raise()

    def _raise(self) -> None:
        """Raise it, later too, if the exception was lost: in a finalizer, say."""
        if self._ending == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ending is not None:
            raise SystemExit(128 + self._ending)

    def wait(self, seconds: float) -> bool:
        """Return true once q is typed, or the terminal is gone; False after that time."""
        deadline = time.monotonic() + seconds
        sources = [self._wake[0], *([] if self._modes is None else [self._fd])]
        while (left := deadline - time.monotonic()) > 0:
            self._raise()
            ready = select.select(sources, [], [], left)[0]
            if self._wake[0] in ready:
                os.read(self._wake[0], 64)
            if self._fd in ready:
                typed = os.read(self._fd, 64)
                if not typed or any(key in QUIT for key in typed):
                    return True
        return False
