# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGHUP during a run: before the guest starts they end the program, then the guest,
always in order.
"""

from __future__ import annotations

import sys

from pyvmm.launch import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.vm import VM


class Signals:
    """A context manager; the handlers that were there before come back at its end.

    A signal that is ignored, as nohup(1) asks for, stays so.
    """

    def __init__(self) -> None:
        self._vm: VM | None = None
        self._came = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        import signal

        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        import signal

        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """The exit status of a run that the signal ended: of a hang-up what a shell gives, else
        `STOPPED`.
        """
        import signal

        return status.HUNG_UP if self._came == signal.SIGHUP else status.STOPPED

    def stop(self, vm: VM) -> None:
        """Have signals end this guest, which is about to start."""
        self._vm = vm

    def started(self, vm: VM) -> None:
        """End a guest that a signal came for while it could not be ended yet."""
        if self._came:
            vm.stop()

    def _handle(self, number: int, frame: object) -> None:
        self._came = self._came or number
        if self._vm is None:
            sys.exit(self.status)  # what was made so far is taken back on the way
        self._vm.stop()
