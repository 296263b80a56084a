# SPDX-License-Identifier: Apache-2.0
"""Cells handed to workers: one at a time on a machine, again when a worker is lost, never to one
with other code.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from bench.report import record
from bench.sweep.cell import Outcome, Spec
from pyvmm.errors import ConfigError

#: A cell whose worker was lost is begun so often at most.
TRIES = 3
#: Seconds without any worker that may be used: before the first cell, then for those that are left.
PATIENCE = 30.0
LOOK = 0.2


class Worker(NamedTuple):
    """A worker's account of itself.

    `machine` is the same for all on one machine; `refused` says why there is no more.
    """

    host: str = ""
    machine: str = ""
    revision: str = ""
    sources: str = ""
    identity: str = ""
    refused: str = ""


class Lost(Exception):
    """The worker went away before the cell had ended."""


class Job(Protocol):
    """A cell on a worker."""

    def done(self) -> bool:
        """Return whether `outcome` says something."""

    def outcome(self) -> Outcome:
        """Return what came of it. Raise Lost, or what happened on the worker."""

    def cancel(self) -> None:
        """Cancel it: nobody wants it any more."""


class Pool(Protocol):
    """Workers, by their addresses."""

    def workers(self) -> dict[str, Worker]:
        """Return those that are there now."""

    def start(self, spec: Spec, address: str, worker: Worker) -> Job:
        """Begin a cell on one of them."""


class Ended(NamedTuple):
    """A cell that needs no more work: what came of it and where, or `failure`, for good."""

    spec: Spec
    outcome: Outcome | None
    address: str
    tries: int
    failure: str = ""


class Running(NamedTuple):
    """A cell under way."""

    spec: Spec
    job: Job
    address: str
    worker: Worker


class Dispatch:
    """A sweep over a pool. `say` is told what a user wants to see."""

    def __init__(self, pool: Pool, specs: Iterable[Spec], say: Callable[[str], None]) -> None:
        self._pool = pool
        self._waiting = deque(specs)
        self._model = self._waiting[0]
        self._running: list[Running] = []
        self._tries: Counter[str] = Counter()
        self._cells_of: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        self._say = say
        self._alone_since = time.monotonic()

    def run(self) -> Iterator[Ended]:
        """Yield each cell exactly once. However that ends, no cell is wanted any more afterwards."""
        try:
            while self._waiting or self._running:
                workers = self._pool.workers()
                yield from self._collect(workers)
                self._hand_out(workers)
                if not self._running and self._waiting and self._too_long_alone():
                    yield from self._give_up()
                time.sleep(LOOK)
        finally:
            for running in self._running:
                running.job.cancel()

    # Cells that ended

    def _collect(self, workers: dict[str, Worker]) -> Iterator[Ended]:
        for running in list(self._running):
            lost = workers.get(running.address) != running.worker
            if not running.job.done() and not lost:
                continue
            self._running.remove(running)
            ended = self._ended(running, lost and not running.job.done())
            if ended:
                yield ended

    def _ended(self, running: Running, lost: bool) -> Ended | None:
        """Return the end of a cell; None if it is begun again."""
        spec, tries = running.spec, self._tries[running.spec.cell.name]
        try:
            if lost:
                running.job.cancel()
                raise Lost
            return Ended(spec, running.job.outcome(), running.address, tries)
        except Lost:
            return self._again(running, tries)
        except Exception as error:
            failure = f"{type(error).__name__} on {running.worker.host}: {error}"
            return Ended(spec, None, running.address, tries, failure)

    def _again(self, running: Running, tries: int) -> Ended | None:
        name, where = running.spec.cell.name, f"{running.worker.host} ({running.address})"
        if tries >= TRIES:
            failure = f"lost its worker {tries} times, the last one {where}"
            return Ended(running.spec, None, running.address, tries, failure)
        self._say(f"{name}: lost its worker {where}; it begins again, try {tries + 1} of {TRIES}")
        self._waiting.appendleft(running.spec)
        return None

    # Cells that begin

    def _hand_out(self, workers: dict[str, Worker]) -> None:
        """Give each machine that has none a cell; of its workers, the one that has had the fewest."""
        usable = [address for address in workers if self._may(address, workers[address])]
        busy = {running.worker.machine for running in self._running}
        for address in sorted(usable, key=lambda address: (self._cells_of[address], address)):
            worker = workers[address]
            if self._waiting and worker.machine not in busy:
                busy.add(worker.machine)
                self._begin(self._waiting.popleft(), address, worker)
        if usable:
            self._alone_since = time.monotonic()

    def _begin(self, spec: Spec, address: str, worker: Worker) -> None:
        self._tries[spec.cell.name] += 1
        self._cells_of[address] += 1
        self._say(f"{spec.cell.name}: begins on {worker.host} ({address})")
        self._running.append(
            Running(spec, self._pool.start(spec, address, worker), address, worker)
        )

    def _may(self, address: str, worker: Worker) -> bool:
        """Return whether a worker measures the same code. One that does not is named once."""
        reason = worker.refused or different(self._model, worker)
        if reason and self._refused.get(address) != reason:
            self._refused[address] = reason
            self._say(f"worker {address} is refused: {reason}")
        return not reason

    # No worker

    def _too_long_alone(self) -> bool:
        """Say whether it was too long.

        At the start those that are refused are answer enough; later one may have gone and come back.
        """
        if self._refused and not self._tries:
            return True
        return time.monotonic() - self._alone_since > PATIENCE

    def _give_up(self) -> Iterator[Ended]:
        if not self._tries:
            reasons = [f"{address}: {reason}" for address, reason in self._refused.items()]
            text = (
                "; ".join(reasons)
                or f"none came within {PATIENCE:g} s; docs/performance.md says how to start one"
            )
            raise ConfigError(f"no worker that can be used: {text}")
        while self._waiting:
            spec = self._waiting.popleft()
            tries = self._tries[spec.cell.name]
            yield Ended(spec, None, "", tries, "no worker is left that can be used")


def different(spec: Spec, worker: Worker) -> str:
    """Return what of a worker's code is not that of the sweep; "" if it is the same."""
    if not record.same_revision(spec.revision, worker.revision):
        return (
            f"it has revision {worker.revision}, this is {spec.revision}; check out the same there"
        )
    if spec.sources != worker.sources:
        return f"its sources differ from these, both at {spec.revision}; make them the same"
    return ""
