# SPDX-License-Identifier: Apache-2.0
"""Asks a guest for pages back when the host has too little memory."""

from __future__ import annotations

import threading
import time
from _weakref import ref  # weakref itself imports more

from pyvmm._core import lib
from pyvmm.errors import GuestDataError, LimitError, StateError, SymcallError
from pyvmm.machine.part import Part
from pyvmm.machine.question import Question
from pyvmm.machine.thread import Thread
from pyvmm.symbiotic import memory as guest_memory
from pyvmm.symbiotic.answer import ask
from pyvmm.symbiotic.swapstats import swap_evict, swap_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine
    from pyvmm.machine.symcall import Raw
    from pyvmm.swap.governor import SwapGovernor

#: Pages of 4 KiB that the guest is asked for at a time; once a second, as often as the governor looks.
BATCH = 16384
PAGE = 4096
#: Of the guest's memory one part in so many stays free, well above the marks at which Linux begins to reclaim.
RESERVE = 16
#: It rests for so many times as long as it counted, which leaves the counting a twentieth of a CPU at most.
REST = 19
#: Milliseconds after which it looks whether it should go on waiting.
TURN = 60_000


class Evictor(Part):
    """A thread that sleeps until the governor finds too little memory on the host, or too much in
    the store.

    Then the guest is asked for no more than `BATCH` pages, and half of what it has free beyond its
    `RESERVE`, so that it need not write others out instead. Where the host is short, free RAM that
    the host has yet to give does not count: a page that moves there would be one more. `asked`
    counts the calls that it took.
    """

    def __init__(self, machine: Machine, governor: SwapGovernor) -> None:
        self._machine = machine
        self._governor = governor
        self.asked = 0
        self._closing = threading.Event()
        weak = ref(self)
        self._thread = Thread(lambda: _serve(governor, weak), "swap-evict")
        self._thread.start()

    def ask(self) -> None:
        """Ask the guest for pages, if it is one that can be asked, and now."""
        try:
            self._ask(self._machine.raw(0, Question()))
        except (SymcallError, StateError, GuestDataError, LimitError):
            return

    def _ask(self, raw: Raw) -> None:
        adopted = swap_stats(raw).adopted
        found = guest_memory.parse(ask(raw, lib.SYMCALL_MEMORY, want=lib.SYMBIOTIC_DATA_SIZE))
        spare = (found.free or 0) - (found.total or 0) // RESERVE
        if spare > 0 and self._governor.policy == "pressure":
            spare -= self._not_given()
        pages = min(BATCH, adopted, spare // 2 // PAGE)
        if pages > 0:
            swap_evict(raw, pages)
            self.asked += 1

    def _not_given(self) -> int:
        """Return how many bytes of the guest's RAM would be new to the host.

        Rests afterwards: counting them may take a while.
        """
        memory = self._machine.memory
        began = time.monotonic()
        missing: int = memory.size - memory.resident
        self._closing.wait((time.monotonic() - began) * REST)
        return missing

    def close(self) -> None:
        """End the thread. May be called twice. Raise StateError while a machine has it."""
        super().close()
        self._closing.set()
        self._governor.end()
        if threading.current_thread() is not self._thread:  # where a dropped machine is collected
            self._thread.join()


def _serve(governor: SwapGovernor, weak: ref[Evictor]) -> None:
    """Wait for the governor's word.

    The thread holds no machine, so that one that is dropped is collected.
    """
    while (found := governor.wait(TURN)) >= 0:
        evictor = weak()
        if evictor is None:
            return
        if found:
            evictor.ask()
        del evictor
