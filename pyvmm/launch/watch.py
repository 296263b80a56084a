# SPDX-License-Identifier: Apache-2.0
"""A thread beside a run: ends the guest when ctrl-a x was typed, or when it hangs, and says so if
it does not come to its init.

On the launch path.
"""

from __future__ import annotations

import os
import select
import sys
import time

from pyvmm.launch.kvmcheck import is_linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.launch.plan import Plan
    from pyvmm.machine.thread import Thread
    from pyvmm.vm import VM

#: Between two looks at a guest.
LOOK_SECONDS = 5.0
#: Until init, after which a word is said: an emulated machine under load takes some tens of seconds.
BOOT_SECONDS = 120.0
#: Of the serial log, shown with it.
LOG_LINES = 10


class Watch:
    """The watch of one run, until `quit_fd`, an eventfd, is written."""

    def __init__(self, vm: VM, plan: Plan, quit_fd: int) -> None:
        self._vm = vm
        self._quit = quit_fd
        #: A program without an operating system may well wait for ever.
        self._linux = is_linux(plan)
        #: Its end is not known: the guest marks its start, and nobody sees the serial port.
        self._boots = plan.own_guest and plan.console != "serial"
        self._begun = 0.0

    def start(self) -> Thread:
        """Start the thread, and return it."""
        from pyvmm.machine.thread import Thread

        thread = Thread(self._watch, "quit")
        thread.start()
        return thread

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._quit, select.POLLIN)
        while not poll.poll(LOOK_SECONDS * 1000 if self._linux else None):
            if self._vm.state == "running":
                self._look()
        os.eventfd_read(self._quit)
        self._vm.stop()

    def _look(self) -> None:
        machine = self._vm.machine
        machine.look()
        self._begun = self._begun or time.monotonic()
        if self._boots and machine.board.platform.mark_ns:
            self._boots = False
        if self._boots and time.monotonic() >= self._begun + BOOT_SECONDS:
            self._boots = False
            self._say_that_it_does_not_boot()

    def _say_that_it_does_not_boot(self) -> None:
        from pyvmm.launch.ending import log_of, shortened

        lines = log_of(self._vm).splitlines()[-LOG_LINES:]
        said = (
            "the end of its serial log:"
            if lines
            else "its serial log is empty (--verbose has the kernel say more, -p earlyprintk=serial earlier)"
        )
        text = [
            f"pyvmm: the guest has not come to its init in {BOOT_SECONDS:.0f} s, and runs on; "
            f"--timeout would end it; {said}",
            *(f"  {shortened(line)}" for line in lines),
        ]
        print("\n".join(text), file=sys.stderr, flush=True)
