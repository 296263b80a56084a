# SPDX-License-Identifier: Apache-2.0
"""Descriptors that a device keeps for itself, whatever becomes of the numbers it was given."""

from __future__ import annotations

import os

from pyvmm.errors import HostError


def check_open(what: str, name: str, fd: int | None) -> int:
    """Return the descriptor; None and -1 are none, -1.

    Raise HostError, which says that the `name` of `what` is not open.
    """
    if fd is None or fd == -1:
        return -1
    try:
        os.fstat(fd)
    except OSError as error:
        text = f"{what}: {name}={fd} is not an open descriptor; -1 is none"
        raise HostError(error.errno, text) from error
    return fd


class Descriptors:
    """Copies of a caller's descriptors, until `close`.

    A device that keeps the number itself would signal, or send to, another file once the caller has
    closed its own.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._fds: list[int] = []

    def own(self, name: str, fd: int | None) -> int:
        """Return a copy of the descriptor, or -1 for none.

        Raise HostError as `check_open` does, and where there can be no further descriptor.
        """
        given = check_open(self._what, name, fd)
        if given < 0:
            return -1
        try:
            self._fds.append(os.dup(given))
        except OSError as error:
            raise HostError(error.errno, f"{self._what}: {name}: {error.strerror}") from error
        return self._fds[-1]

    def close(self) -> None:
        """Close the copies. May be called twice."""
        while self._fds:
            os.close(self._fds.pop())
