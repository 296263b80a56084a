# SPDX-License-Identifier: Apache-2.0
"""The run of a machine: its start, pauses, end, and the result."""

from __future__ import annotations

import errno
import threading
import time

from pyvmm._core import lib
from pyvmm.errors import HostError, LimitError, StateError
from pyvmm.machine import result as results
from pyvmm.machine.result import Result
from pyvmm.quantity import check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.board import Board
    from pyvmm.machine.memory import GuestMemory
    from pyvmm.machine.part import Owner
    from pyvmm.machine.question import Question
    from pyvmm.machine.vcpu import Vcpu

#: How long a vCPU thread may take to notice a stop before the machine calls it stuck.
STOP_SECONDS = 30.0
#: How often who waits for a pause looks whether to go on waiting, seconds.
LOOK_SECONDS = 0.2
#: So often each vCPU has to be found halted for good, with no exit between, before the guest counts as hung.
HANG_LOOKS = 2


class Run:
    """The run of the `vcpus`, of which there is one: built -> running, paused -> stopping -> ended.

    The first end counts; it tells every vCPU to leave, and the run has ended when all have.
    """

    def __init__(self, owner: Owner, board: Board, memory: GuestMemory, vcpus: list[Vcpu]) -> None:
        self._owner = owner
        self._board = board
        self._memory = memory
        self._vcpus = vcpus
        #: Held to change or to look at all below; notified at each change.
        self.lock = threading.Condition()
        self.state = "built"
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._running = 0
        self._started_at = 0.0
        self._ended_at = 0.0
        self._exits_seen = -1

    # From any thread.

    def start(self) -> None:
        """Start all vCPUs, each on a thread of its own.

        Raise HostError if the host gives no more threads; the machine has ended then.
        """
        with self.lock:
            self._owner.check_open()
            if self.state != "built":
                raise StateError(f"the machine is {self.state}; it starts once")
            self.state = "running"
            self._running = len(self._vcpus)
            self._started_at = time.monotonic()
        try:
            for vcpu in self._vcpus:
                vcpu.start()
        except BaseException as error:
            # An interrupt (ctrl-c) is no failure: whoever catches it says so.
            detail = f"the start failed: {error}" if isinstance(error, Exception) else ""
            with self.lock:
                self._finish(Result(results.STOPPED, detail=detail))
                self._leave(sum(vcpu.call_off() for vcpu in self._vcpus))
            raise

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait for the end of the run; None if `timeout` seconds pass first.

        An exception raised by a hook ends the run and is raised here. Raise ConfigError for a time
        that cannot be, StateError in a hook, without which the run does not end.
        """
        if timeout is not None:
            timeout = check_seconds(timeout, "a timeout")
        if self.on_vcpu_thread():
            raise StateError("a hook cannot wait for the machine it runs in; call stop()")
        with self.lock:
            if not self.lock.wait_for(lambda: self.state in ("ended", "built"), timeout):
                return None
            if self.state == "built":
                self._owner.check_open()
                raise StateError("the machine was not started")
            if self._error is not None:
                raise self._error
            return self._result

    def pause(self, question: Question | None = None) -> None:
        """Stop all vCPUs between two instructions and wait until they stand.

        From within a hook it only asks: the machine stands once the hook is over. With a `question`
        it waits as long as that has time: LimitError then, and the machine goes on.
        """
        with self.lock:
            if self.state == "paused":
                return
            if self.state != "running":
                self._owner.check_open()
                raise StateError(f"the machine is {self.state}; only a running one can be paused")
            self.state = "paused"
            self._request_all(lib.VCPU_REQUEST_PAUSE)
            if self.on_vcpu_thread():
                return
            try:
                while not self.lock.wait_for(self._stands, LOOK_SECONDS):
                    if question is not None:
                        question.check()
            except LimitError:
                if self.state == "paused":
                    self.resume()
                raise

    def resume(self) -> None:
        """Let a paused machine go on."""
        with self.lock:
            if self.state != "paused":
                self._owner.check_open()
                raise StateError(f"the machine is {self.state}, not paused")
            self.state = "running"
            self.lock.notify_all()

    def stop(self, result: Result | None = None) -> None:
        """End the run; without a result of its own it counts as "stopped"."""
        with self.lock:
            if self.state in ("running", "paused"):
                self._finish(result or Result(results.STOPPED))

    def finish(self) -> None:
        """Stop, and wait for the vCPUs' threads.

        Raise HostError (ETIMEDOUT) where one does not stop.
        """
        self.stop()
        with self.lock:
            if self.state == "built":
                return
            if not self.lock.wait_for(lambda: self.state == "ended", STOP_SECONDS):
                raise HostError(
                    errno.ETIMEDOUT,
                    f"a vCPU did not stop in {STOP_SECONDS:.0f} s; its memory is kept, close() may be called again",
                )
        for vcpu in self._vcpus:
            if vcpu.thread is not None:
                vcpu.thread.join()

    def look(self) -> None:
        """Have each vCPU looked at if the guest made no exit since the last time; the run ends by
        "hang" once all were found halted for good twice in a row.
        """
        exits = sum(count for name, count in self.exits().items() if name != "intr")
        with self.lock:
            idle = self.state == "running" and exits == self._exits_seen
            self._exits_seen = exits
            if not idle:
                for vcpu in self._vcpus:
                    vcpu.found_halted = 0
                return
            self._request_all(lib.VCPU_REQUEST_LOOK)

    def check_takes_calls(self) -> None:
        """Raise StateError unless a symcall can be made: while it runs or is paused."""
        with self.lock:
            self._owner.check_open()
            if self.state not in ("running", "paused"):
                raise StateError(f"the machine is {self.state}; a running one takes symcalls")

    def notify(self) -> None:
        """Have each vCPU that is parked look whether it is called."""
        with self.lock:
            self.lock.notify_all()

    def on_vcpu_thread(self) -> bool:
        """Return whether this is the thread of one of the vCPUs."""
        return threading.current_thread() in [vcpu.thread for vcpu in self._vcpus]

    def exits(self) -> dict[str, int]:
        """Return the exits of all vCPUs so far, by kind."""
        total: dict[str, int] = {}
        for vcpu in self._vcpus:
            for name, count in vcpu.exits().items():
                total[name] = total.get(name, 0) + count
        return total

    def _stands(self) -> bool:
        """Say whether all vCPUs stand, or the machine is not to be paused any more. Needs the lock."""
        return self.state != "paused" or sum(v.parked for v in self._vcpus) == self._running

    def _request_all(self, bits: int) -> None:
        for vcpu in self._vcpus:
            vcpu.request(bits)

    def _finish(self, result: Result) -> None:
        """Note the end, of which the first counts, and tell every vCPU to leave. Needs the lock."""
        if self._result is None:
            self._result = result
            self._ended_at = time.monotonic()
        self.state = "stopping"
        self._request_all(lib.VCPU_REQUEST_STOP)
        self.lock.notify_all()

    # On the thread of a vCPU.

    def park(self, vcpu: Vcpu) -> bool:
        """Wait while the machine is paused, but for symcalls. False when the run is over."""
        while True:
            with self.lock:
                vcpu.parked = True
                self.lock.notify_all()
                self.lock.wait_for(lambda: self.state != "paused" or vcpu.is_called())
                vcpu.parked = False
                if self.state != "paused":
                    return self.state == "running"
            if not vcpu.serve_symcalls():
                return False

    def end(self, vcpu: Vcpu, result: Result) -> None:
        """Take note that the guest, or KVM, ended the run."""
        if result.reason not in results.CLEAN:
            result.dump = self._dump(vcpu)
        with self.lock:
            if self.state in ("running", "paused"):
                self._finish(result)

    def hangs(self) -> bool:
        """Say whether every vCPU was found halted for good, often enough."""
        return all(vcpu.found_halted >= HANG_LOOKS for vcpu in self._vcpus)

    def fail(self, vcpu: Vcpu, error: BaseException) -> None:
        """Take note that a hook raised."""
        with self.lock:
            if self._error is None:
                self._error = error
            if self.state in ("running", "paused"):
                self._finish(Result(results.STOPPED, vcpu=vcpu.index, detail=str(error)))

    def leave(self) -> None:
        """Take note that the vCPU runs no more; last of all."""
        with self.lock:
            self._leave(1)

    def _dump(self, vcpu: Vcpu) -> str:
        from pyvmm.machine import crash

        try:
            return crash.dump(vcpu.kvm, self._memory)
        except Exception as error:
            return f"no dump: {error}"

    def _leave(self, vcpus: int) -> None:
        """Note that so many fewer run. Needs the lock."""
        self._running -= vcpus
        if not self._running:
            self._complete_result()
            self.state = "ended"
        self.lock.notify_all()

    def _complete_result(self) -> None:
        result = self._result
        assert result is not None
        result.seconds = self._ended_at - self._started_at
        platform = self._board.platform
        status = int(platform.status)
        result.status = status if status >= 0 else None
        if platform.mark_ns:
            result.boot_seconds = platform.mark_ns / 1e9 - self._started_at
        result.exits = self.exits()
        result.unclaimed = sum(vcpu.unclaimed for vcpu in self._vcpus)
