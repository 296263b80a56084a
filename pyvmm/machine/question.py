# SPDX-License-Identifier: Apache-2.0
"""Bounds of an answer: the time that all calls into the guest may take together, and whether
anybody still waits.
"""

from __future__ import annotations

import time

from pyvmm.errors import LimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that an answer may take in total. A guest that is asked for a page of it answers in microseconds.
SECONDS = 10.0


class Question:
    """One question to a guest, of one call or of thousands: `seconds` from now on for all of them
    together.

    `given_up`, if there is one, says whether who asked has gone.
    """

    __slots__ = ("_given_up", "_until", "seconds")

    def __init__(
        self, seconds: float = SECONDS, given_up: Callable[[], bool] | None = None
    ) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self._given_up = given_up

    @property
    def left(self) -> float:
        """Seconds, not below 0."""
        return max(self._until - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise LimitError once the time is over, or nobody waits for the answer any more."""
        if self._until <= time.monotonic():
            raise LimitError(f"the answer would take longer than {self.seconds:g} s")
        if self._given_up is not None and self._given_up():
            raise LimitError("who asked has gone")
