# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster as a pool of workers.

Wants `distributed` (pip install 'pyvmm-kvm[sweep]'), which only this file imports.

Left alone, Dask sends a task again when a worker is lost, to any other, as often as the scheduler's
settings say. A sweep tells where a cell ran and how often it was tried: each is bound to one
worker, and dispatch.py decides.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from bench.report import record
from bench.sweep import cell
from bench.sweep.cell import Outcome, Spec
from bench.sweep.dispatch import Job, Lost, Worker
from pyvmm.errors import ConfigError, HostError

CONNECT_SECONDS = 20
#: For cells that are no longer wanted to end.
END_SECONDS = 2 * cell.GRACE
BOOT_ID = "/proc/sys/kernel/random/boot_id"

#: In a worker: the cells that run in it now.
ACTIVE: set[str] = set()


def import_distributed() -> Any:
    """Return the module. Raise ConfigError with the remedy if it is not there."""
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            f"--scheduler wants Dask's distributed ({error}): pip install 'pyvmm-kvm[sweep]'"
        ) from error
    return distributed


# On a worker


def describe(dask_worker: Any) -> Worker:
    """Return what a worker says of itself. One machine is one boot of one kernel."""
    return Worker(
        host=os.uname().nodename,
        machine=Path(BOOT_ID).read_text().strip(),
        revision=record.revision(),
        sources=record.sources(),
        identity=dask_worker.id,
    )


def work(spec: Spec, identity: str) -> Outcome:
    """Run a cell, but not on a worker that came back under the address of the one that was meant:
    that one is lost.
    """
    worker = import_distributed().get_worker()
    key = worker.get_current_task()
    if worker.id != identity:
        raise Lost(f"{worker.address} is another one now")
    ACTIVE.add(key)
    try:
        outcome = cell.perform(spec, lambda: wanted(worker, key))
    finally:
        ACTIVE.discard(key)
    if outcome.status == cell.UNWANTED:
        raise Lost(f"{worker.address} was told to stop")
    return outcome


def wanted(worker: Any, key: Any) -> bool:
    """Return whether a task that runs is still asked for.

    Dask cannot stop a thread, but notes it in the task's state, also when the client is gone.
    """
    task = worker.state.tasks.get(key)
    return task is not None and task.state == "executing"


async def settled(keys: list[str], seconds: float) -> list[str]:
    """Wait, without holding up the worker, until none of these runs there; those that still do."""
    end = time.monotonic() + seconds
    while ACTIVE & set(keys) and time.monotonic() < end:
        await asyncio.sleep(cell.LOOK)
    return sorted(ACTIVE & set(keys))


# At the client


class Task:
    """A cell that was handed to a worker."""

    def __init__(self, future: Any, lost: Callable[[], None]) -> None:
        """Take `lost`, which is called when the worker was."""
        self.future = future
        self._lost = lost

    def done(self) -> bool:
        return bool(self.future.done())

    def outcome(self) -> Outcome:
        """Return what the worker returned.

        Raise what was raised there, Lost where Dask says that it is gone.
        """
        distributed = import_distributed()
        try:
            found: Outcome = self.future.result()
        except (Lost, distributed.KilledWorker, CancelledError) as error:
            self._lost()
            raise Lost(str(error)) from error
        return found

    def cancel(self) -> None:
        self.future.cancel()


class Cluster:
    """The workers of a scheduler, such as tcp://HOST:8786; a context manager."""

    def __init__(self, address: str) -> None:
        """Raise ConfigError without Dask, HostError if nothing answers there."""
        distributed = import_distributed()
        try:
            self._client = distributed.Client(
                address, timeout=CONNECT_SECONDS, name="pyvmm-bench", set_as_default=False
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise HostError(
                f"no Dask scheduler answers at {address} ({error}); start one with: dask scheduler"
            ) from error
        self._address = address
        self._known: dict[str, Worker] = {}
        self._tasks: list[Task] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def workers(self) -> dict[str, Worker]:
        """Return those that are there now. Raise HostError if the scheduler is gone."""
        try:
            there = list(self._client.nthreads())
            self._known = {
                address: self._known[address] for address in there if address in self._known
            }
            self._known.update(self._described([one for one in there if one not in self._known]))
        except (OSError, TimeoutError) as error:
            raise HostError(f"the Dask scheduler at {self._address} is gone: {error}") from error
        return dict(self._known)

    def _described(self, new: list[str]) -> dict[str, Worker]:
        """Return what new workers say.

        One that cannot is refused; one that is gone meanwhile is left out.
        """
        if not new:
            return {}
        said = self._client.run(describe, workers=new, on_error="return")
        return {
            address: found if isinstance(found, Worker) else mute(found)
            for address, found in said.items()
            if not isinstance(found, OSError)
        }

    def start(self, spec: Spec, address: str, worker: Worker) -> Job:
        """Begin a cell on one worker."""
        future = self._client.submit(
            work, spec, worker.identity, workers=[address], allow_other_workers=False, pure=False
        )
        self._tasks.append(Task(future, lambda: self._forget(address)))
        return self._tasks[-1]

    def _forget(self, address: str) -> None:
        """Ask again who is there, as it may be another one."""
        self._known.pop(address, None)

    def close(self) -> None:
        """Wait for cells that are not wanted any more to end, say which do not, and leave the
        cluster as it was.
        """
        keys = [task.future.key for task in self._tasks]
        try:
            for address, left in self._left(keys).items():
                print(f"bench: {address} still has {left}", flush=True)
        finally:
            self._client.close()

    def _left(self, keys: Sequence[str]) -> dict[str, list[str]]:
        addresses = [address for address, worker in self._known.items() if not worker.refused]
        if not addresses or not keys:
            return {}
        try:
            said = self._client.run(
                settled, list(keys), END_SECONDS, workers=addresses, on_error="return"
            )
        except (OSError, TimeoutError):
            return {}  # with the scheduler gone workers end, and their cells with them
        return {address: left for address, left in said.items() if isinstance(left, list) and left}


def mute(error: object) -> Worker:
    """Return a worker that cannot say what it has."""
    what = f"{type(error).__name__}: {error}"
    text = f"it cannot use pyvmm's source tree ({what}); start it in a virtual environment that `make setup` made"
    return Worker(refused=text)
