# SPDX-License-Identifier: Apache-2.0
"""Descriptors that a device keeps for itself, whatever becomes of the numbers it was given."""

from __future__ import annotations

import os

from pyvmm.errors import HostError


class Descriptors:
    """Copies of a caller's descriptors, until `close`.

    A device that keeps the number itself would signal, or send to, another file once the caller has
    closed its own.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._fds: list[int] = []

    def own(self, name: str, fd: int | None) -> int:
        """Return a copy of the descriptor; None and -1 are none, -1.

        Raise HostError, which gives it that `name`, where it is not open.
        """
        if fd is None or fd == -1:
            return -1
        try:
            self._fds.append(os.dup(fd))
        except OSError as error:
            raise HostError(
                error.errno, f"{self._what}: {name}={fd} is not an open descriptor; -1 is none"
            ) from error
        return self._fds[-1]

    def close(self) -> None:
        """Close the copies. May be called twice."""
        while self._fds:
            os.close(self._fds.pop())
