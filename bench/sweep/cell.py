# SPDX-License-Identifier: Apache-2.0
"""One cell of a sweep, run to its end in a scratch folder; `python -m bench.sweep.cell` is the
process that does it.

There are two processes. A keeper holds the lock of the machine, so that no two cells disturb each
other, has an eye on the time, and on its standard input: whoever wants the cell has the other end
of it, and with its end, by intent or by kill -9, the cell's own processes end too. The keeper
starts a runner, which measures as `pyvmm bench` does without a sweep: on this machine's KVM or in
the lab, where QEMU has a session of its own: processes are found by their parents.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench import run as measuring
from bench.report import record
from bench.sweep.matrix import Cell
from pyvmm.errors import Error

#: The keeper's status when the time is over, as timeout(1) does.
TIMED_OUT = 124
#: Nobody wanted it any more.
UNWANTED = 125
#: The sources are not those of the sweep, any more.
CHANGED = 126
#: Variables that a Dask worker sets for its children. A cell is to be the same with and without.
OF_DASK = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Seconds between looks, and those that a cell has to give back what it took, before it is killed.
LOOK = 0.1
GRACE = 20.0
#: Bytes of a cell's output that come back at most.
SAID = 1 << 20
SPEC = "cell.spec"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Spec(NamedTuple):
    """The order to a worker: plain values, that go over a network.

    `common` are the options of `pyvmm bench` for all cells, `timeout` is in seconds, from when the
    machine is free.
    """

    cell: Cell
    common: dict[str, Any]
    timeout: float
    revision: str
    sources: str


class Outcome(NamedTuple):
    """The outcome of a cell: the keeper's status (0 if all is well), the record if there is one,
    and what was printed.
    """

    status: int
    record: dict[str, Any] | None
    said: str
    host: str


def lock_path() -> Path:
    """Return one file for each machine, whoever measures there."""
    return Path(tempfile.gettempdir()) / "pyvmm-bench.lock"


def perform(spec: Spec, wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Run a cell on this machine, when no other one runs. `wanted` is asked several times a second."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-cell-") as folder:
        (Path(folder) / SPEC).write_text(json.dumps(spec), encoding="utf-8")
        said = Path(folder) / "said"
        with said.open("wb") as output:
            status = kept(
                [sys.executable, "-m", "bench.sweep.cell", "keep", folder], output, wanted
            )
        found = None
        if status == UNWANTED:
            return Outcome(status, None, "", os.uname().nodename)
        if status == 0:
            with suppress(SystemExit):
                found = record.load(Path(folder) / f"{spec.cell.suite}.json")
        text = said.read_bytes()[-SAID:].decode(errors="replace")
    return Outcome(status, found, text, os.uname().nodename)


def kept(command: list[str], output: Any, wanted: Callable[[], bool]) -> int:
    """Run the keeper to its end; its standard input ends when we do, or nobody wants it."""
    keeper = subprocess.Popen(
        command,
        cwd=record.ROOT,
        env={name: value for name, value in os.environ.items() if name not in OF_DASK},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C is for us
    )
    assert keeper.stdin is not None
    try:
        while wanted():
            with suppress(subprocess.TimeoutExpired):
                return keeper.wait(LOOK)
    finally:
        keeper.stdin.close()
        keeper.wait()
    return keeper.returncode


# The keeper


def keep(folder: str) -> int:
    """Run the cell and leave no process of it behind, nor the folder if nobody is there to look at
    it.
    """
    status = guarded(spec_of(folder), folder)
    if status == UNWANTED:
        shutil.rmtree(folder, ignore_errors=True)
    return status


def guarded(spec: Spec, folder: str) -> int:
    """Wait for the machine, and run the cell until it ends, its time is over, or it is unwanted."""
    adopt_orphans()
    with machine_lock() as lock:
        while not taken(lock):
            if unwanted(LOOK):
                return UNWANTED
        if record.sources() != spec.sources:  # a worker began with others, or a sweep
            return CHANGED
        end = time.monotonic() + spec.timeout
        command = [sys.executable, "-m", "bench.sweep.cell", "run", folder]
        runner = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            while runner.poll() is None:
                if unwanted(LOOK):
                    return UNWANTED
                if time.monotonic() > end:
                    print(f"bench: {spec.cell.name} did not end within {spec.timeout:g} s")
                    return TIMED_OUT
            return runner.returncode
        finally:
            end_all()


def machine_lock() -> Any:
    """Return the open file.

    One that another user made cannot be opened for writing, and need not be.
    """
    path = lock_path()
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o444))
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def taken(lock: Any) -> bool:
    """Return whether the lock is ours now; it goes with this process."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unwanted(seconds: float) -> bool:
    """Return whether standard input ends within so long. Nobody writes to it."""
    return bool(select.select([0], [], [], seconds)[0])


def adopt_orphans() -> None:
    """Keep descendants of this process below it when its parent dies (prctl(2),
    PR_SET_CHILD_SUBREAPER).
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_all() -> None:
    """End what descends from this process: as Ctrl-C does, so that it can give back what it took,
    then for good.
    """
    end = time.monotonic() + GRACE
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
    while left := psutil.Process().children(recursive=True):
        psutil.wait_procs(left, timeout=LOOK)
        if time.monotonic() > end:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


# The runner


def run(folder: str) -> int:
    """Measure as `pyvmm bench SUITE` does, without the report."""
    cell, common = spec_of(folder)[:2]
    linux = cell.options.get("linux", common["linux"])
    args = argparse.Namespace(**{**common, "linux": linux}, words=cell.words)
    try:
        failed = measuring.measure(args, [cell.suite], Path(folder))
    except Error as error:
        print(f"bench: {error}", flush=True)
        return 1
    return int(bool(failed))


def spec_of(folder: str) -> Spec:
    """Return what `perform` wrote there."""
    cell, *rest = json.loads((Path(folder) / SPEC).read_text(encoding="utf-8"))
    return Spec(Cell(*cell), *rest)


def main() -> int:
    """Return either of the two processes."""
    part, folder = sys.argv[1:]
    if part == "run":
        try:
            return run(folder)
        except KeyboardInterrupt:
            return UNWANTED
    return keep(folder)


if __name__ == "__main__":
    sys.exit(main())
