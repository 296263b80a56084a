# SPDX-License-Identifier: Apache-2.0
"""Threads that run Python: hooks, requests of clients, questions to the guest."""

from __future__ import annotations

import errno
import threading

from pyvmm._core import lib
from pyvmm.errors import HostError
from pyvmm.machine.handle import MORE_THREADS

#: Bytes. C code of Python (json, repr, sorted, the parser) may recurse until an 8 MiB stack is nearly full before it
#: raises RecursionError, since 3.13 more deeply than 1 or 2 MiB hold; what is not used costs addresses only.
STACK_SIZE = 8 << 20

_starting = threading.Lock()


class Thread(threading.Thread):
    """A thread with a stack of `STACK_SIZE`, whatever the process has set, in pages of 4 KiB.

    A daemon. While one starts, threads that others start get such a stack as well.
    """

    def __init__(self, target: object, name: str, args: tuple[object, ...] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it, once. Raise HostError (EAGAIN) if the host gives no more threads."""
        with _starting:
            before = threading.stack_size(STACK_SIZE)
            try:
                super().start()
            except RuntimeError as error:
                raise HostError(
                    errno.EAGAIN,
                    f"the host gives this process no more threads, here for {self.name}; {MORE_THREADS}",
                ) from error
            finally:
                threading.stack_size(before)

    def run(self) -> None:
        """Do the work, on the thread itself."""
        lib.thread_use_small_pages()
        super().run()
