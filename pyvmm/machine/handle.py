# SPDX-License-Identifier: Apache-2.0
"""Owners of C objects: nobody gets at one after it is freed, and none is freed while somebody uses
it.
"""

from __future__ import annotations

import errno
import os
import time
from _thread import get_ident

from pyvmm._core import ffi
from pyvmm.errors import HostError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The remedy where the host gives no more threads.
MORE_THREADS = "raise ulimit -u, or pids.max of the control group"
#: How long `Handle.release` waits for other threads that use the object, seconds.
RELEASE_SECONDS = 30.0
#: How long it sleeps until it looks again, seconds.
PAUSE = 0.001


class Closed:
    """Stands where a pointer was, for code that keeps it at hand: each use raises StateError.

    cffi takes it for no pointer, so that C never sees it.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        raise StateError(f"{self._what} is closed")

    def __setattr__(self, name: str, value: object) -> None:
        raise StateError(f"{self._what} is closed")


class Handle:
    """A C object with one owner, for use from any thread: `with handle as pointer:
    lib.function(pointer)`.

    `pointer` is what C made, `destroy` the function that frees it, `what` names it in messages
    ("the serial port"). Raises HostError if C could not make it: `pointer` is NULL then, and errno
    says why.

    A use counts until its `with` ends. `release` lets nobody in, waits for those who are, then
    frees the object. What an object refers to is made before it and released after it, so it is
    there during each use as well.

    A use of one's own thread that is joined before the release, such as a vCPU's, needs no count:
    see `Closed`.
    """

    __slots__ = ("_destroy", "_doomed", "_pointer", "_users", "_what")

    def __init__(self, pointer: Any, destroy: Callable[[Any], object], what: str) -> None:
        if pointer == ffi.NULL:
            error = ffi.errno or errno.ENOMEM
            # Of all that C asks the host for only threads are refused so (pthread_create(3)).
            remedy = f"; {MORE_THREADS}" if error == errno.EAGAIN else ""
            raise HostError(error, f"{what} cannot be made: {os.strerror(error)}{remedy}")
        self._pointer = pointer
        self._doomed: Any = None
        self._destroy = destroy
        self._what = what
        #: Threads by number, each as often as it is in a `with`: append and remove are atomic.
        self._users: list[int] = []

    @property
    def pointer(self) -> Any:
        """The pointer, for a thread that knows that nobody releases it now.

        Raise StateError once it is released.
        """
        pointer = self._pointer
        if pointer is None:
            raise StateError(f"{self._what} is closed")
        return pointer

    def check(self) -> None:
        """Raise StateError once it is released."""
        if self._pointer is None:
            raise StateError(f"{self._what} is closed")

    @property
    def released(self) -> bool:
        """True if nobody can use it any more."""
        return self._pointer is None

    def __enter__(self) -> Any:
        user = get_ident()
        try:
            # Counted first, then looked: `release` does it the other way round.
            self._users.append(user)
            pointer = self._pointer
            if pointer is None:
                raise StateError(f"{self._what} is closed")
        except BaseException:
            self._users.remove(user)
            raise
        return pointer

    def __exit__(self, *exc: object) -> None:
        self._users.remove(get_ident())

    def release(self) -> None:
        """Free the object, once; a second call does nothing.

        Raise StateError on a thread that is using it itself, and HostError (ETIMEDOUT) if another
        thread's use does not end in `RELEASE_SECONDS`: the object is kept then, closed to all, and
        the call may be made again.
        """
        if get_ident() in self._users:
            raise StateError(f"{self._what} is in use by the thread that closes it")
        if self._pointer is not None:
            self._doomed, self._pointer = self._pointer, None
        deadline = time.monotonic() + RELEASE_SECONDS
        while self._users:
            if time.monotonic() >= deadline:
                raise HostError(
                    errno.ETIMEDOUT,
                    f"{self._what} is still in use by another thread after {RELEASE_SECONDS:.0f} s; it is kept",
                )
            time.sleep(PAUSE)
        doomed, self._doomed = self._doomed, None
        if doomed is not None:
            self._destroy(doomed)
