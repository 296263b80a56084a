# SPDX-License-Identifier: Apache-2.0
"""The user's terminal while a guest has it: raw, and given back as it was found."""

from __future__ import annotations

import os

from pyvmm.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

#: Signals that a fault of the process's own code raises (signal(7)).
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
#: Signals that cannot be caught, or do not end a process.
OTHERS = (
    "SIGKILL",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGCONT",
    "SIGCHLD",
    "SIGURG",
    "SIGWINCH",
)

# Indices into what tcgetattr returns (termios(3)).
IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6


def raw_attributes(attributes: list[Any]) -> list[Any]:
    """Return the same terminal settings made raw: every byte passes both ways, at once and
    unchanged.

    Output is raw as well: the guest's own terminal driver sends CR LF already.
    """
    import termios as t

    raw = list(attributes)
    raw[IFLAG] &= ~(
        t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON
    )
    raw[OFLAG] &= ~t.OPOST
    raw[CFLAG] = raw[CFLAG] & ~(t.CSIZE | t.PARENB) | t.CS8
    raw[LFLAG] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
    raw[CC] = list(raw[CC])
    raw[CC][t.VMIN], raw[CC][t.VTIME] = 1, 0
    return raw


def ending_signals() -> set[int]:
    """Return the signals that end a process by default, without the faults: a handler would return
    to the faulting instruction.

    The realtime signals stay out: pyvmm's own threads have one of them.
    """
    import signal

    named = {int(getattr(signal, name)) for name in FAULTS + OTHERS}
    return {int(number) for number in signal.valid_signals() if number < signal.SIGRTMIN} - named


class Terminal:
    """Context manager: raw mode for the time within, when `fd_in` is a terminal; else nothing
    happens.

    The settings come back at every kind of end that a process can see: leaving the block, an
    exception, the end of the interpreter, and each signal that ends a process (`ending_signals`);
    and for as long as SIGTSTP stops us. A signal handler that was there before runs after that; if
    it returns, the terminal becomes raw again. After SIGKILL or a crash type ``reset`` or ``stty
    sane``.

    Signals are looked after only when the block is entered on the main thread, for Python allows it
    nowhere else. A process in the background leaves the terminal alone until it is brought to the
    foreground.

    `active` says that the input is a terminal, so that escape keys make sense.
    """

    def __init__(self, fd_in: int = 0, fd_out: int = 1) -> None:
        self._in = fd_in
        self._out = fd_out
        self.active = False
        self._entered = False
        self._saved: list[Any] | None = None
        self._raw = False
        self._pid = 0
        self._previous: dict[int, Any] = {}
        self._resized: list[Callable[[int, int], None]] = []

    def __enter__(self) -> Terminal:
        if self._entered:
            raise StateError("this Terminal is in use already")
        self._entered = True
        self._pid = os.getpid()
        self.active = os.isatty(self._in)
        try:
            if self.active:
                import atexit

                atexit.register(self._restore)
            self._take_signals()
            self._make_raw()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def _leave(self) -> None:
        # The signals last: one that comes in between finds nothing to do.
        self._entered = False
        self._restore()
        self._release_signals()
        if self.active:
            import atexit

            atexit.unregister(self._restore)
        self._saved = None

    # Window size

    def size(self) -> tuple[int, int] | None:
        """Return (columns, rows) of the window; None where neither descriptor is a terminal that
        knows it.
        """
        for fd in (self._out, self._in):
            try:
                columns, rows = os.get_terminal_size(fd)
            except (OSError, ValueError, OverflowError):
                continue
            if columns and rows:
                return columns, rows
        return None

    def on_resize(self, callback: Callable[[int, int], None]) -> None:
        """Call ``callback(columns, rows)`` on the main thread after each change of the window's
        size.
        """
        self._resized.append(callback)

    def _on_winch(self, number: int, frame: FrameType | None) -> None:
        size = self.size()
        if size is not None:
            for callback in self._resized:
                callback(*size)
        self._chain(number, frame)

    # Raw mode

    def _in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self._in) != os.getpgrp()
        except OSError:  # not the controlling terminal: there is no job control on it
            return False

    def _make_raw(self) -> None:
        if not (self.active and self._entered) or self._in_background():
            return
        import termios

        try:
            if self._saved is None:
                self._saved = termios.tcgetattr(self._in)
            self._raw = True
            self._set(raw_attributes(self._saved))
        except termios.error:  # hung up
            self._raw = False

    def _restore(self) -> None:
        # A forked child must not undo what its parent set.
        if not self._raw or self._saved is None or self._pid != os.getpid():
            return
        import termios

        self._raw = False
        if self._in_background():
            return  # it is the shell's now, which has set what it wants
        try:
            self._set(self._saved)
        except termios.error:
            pass

    def _set(self, attributes: list[Any]) -> None:
        import signal
        import termios

        # The foreground may change after the check; with SIGTTOU blocked that cannot stop us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            # Not TCSADRAIN: the output of a terminal that is halted by ctrl-s never drains.
            termios.tcsetattr(self._in, termios.TCSANOW, attributes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # Signals

    def _take_signals(self) -> None:
        import signal
        import threading

        if threading.current_thread() is not threading.main_thread():
            return
        wanted: dict[int, Callable[[int, FrameType | None], None]] = {}
        if self.active:
            for end in ending_signals():
                if signal.getsignal(end) != signal.SIG_IGN:  # as under nohup
                    wanted[end] = self._on_end
            if (
                signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN
            ):  # as where there is no job control
                wanted[signal.SIGTSTP] = self._on_stop
            wanted[signal.SIGCONT] = self._on_continue
        if self.active or os.isatty(self._out):
            wanted[signal.SIGWINCH] = self._on_winch
        for number, handler in wanted.items():
            previous = signal.getsignal(number)
            if previous is not None:  # None: a handler that is not Python's, to be left alone
                self._previous[number] = previous
                signal.signal(number, handler)

    def _release_signals(self) -> None:
        import signal

        ours = (self._on_end, self._on_stop, self._on_continue, self._on_winch)
        for number, previous in self._previous.items():
            # A handler that somebody put in place of ours stays.
            if signal.getsignal(number) in ours:
                signal.signal(number, previous)
        self._previous.clear()

    def _chain(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        self._make_raw()
        self._chain(number, frame)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        import signal

        self._chain(number, frame)
        self._restore()
        # Stop of the signal itself, as a shell expects; it is ours again once we go on.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._on_stop)
        self._make_raw()

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        import signal

        self._restore()
        if self._previous.get(number) == signal.SIG_DFL:
            # Die of the signal itself, so that the parent sees what it was.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._chain(number, frame)
        self._make_raw()
