# SPDX-License-Identifier: Apache-2.0
"""Programs that run beside each other: shown when they have ended, ended when they fall silent."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import TYPE_CHECKING, NamedTuple

from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest test is silent for about 200 s on an emulated machine.
SILENT_SECONDS = 420
SILENT = 1000  # no status of a program: 124 is that of a lab that was at work for too long
#: Of processes at a time: a lab touches 1 to 2 GiB of memory.
MOST = 4
SHOWING = Lock()
#: What is running, to be ended with this program.
RUNNING: set[subprocess.Popen[bytes]] = set()
#: Set before those are: a process that begins meanwhile ends itself.
ENDING = Event()


class Process(NamedTuple):
    """What is run, what to call it, and for how many seconds it may be silent."""

    what: str
    command: list[str]
    silent: float = SILENT_SECONDS


class End(NamedTuple):
    """Of a process."""

    code: int
    seconds: float


def number_of(cpus: int) -> int:
    """Return how many processes run at a time that keep so many CPUs busy each."""
    return max(1, min(MOST, (os.cpu_count() or 1) // cpus))


def at_a_time(count: int, processes: Sequence[Process]) -> list[End]:
    """Run all, so many at a time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(shown, processes))


def shown(process: Process) -> End:
    """Run it once, and show its output at the end: a second try would hide a hang."""
    start = time.monotonic()
    code, output = watch(process.command, process.silent)
    end = End(code, time.monotonic() - start)
    with SHOWING:
        print(f"\n-- {process.what}: status {code}, {end.seconds:.0f} s", flush=True)
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
    return end


def watch(command: list[str], silent: float) -> tuple[int, bytes]:
    """Run it to its end, or end it when it has said nothing for so many seconds; its status and output."""
    output = b""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        RUNNING.add(process)
        if ENDING.is_set():
            process.terminate()
        try:
            fd = process.stdout.fileno()
            while True:
                if not select.select([fd], [], [], silent)[0]:
                    process.terminate()
                    said = f"\nnothing was said for {silent} s: ended\n"
                    return SILENT, output + said.encode()
                piece = os.read(fd, 65536)
                if not piece:
                    return process.wait(), output
                output += piece
        finally:
            RUNNING.discard(process)


def end_all(number: int, frame: object) -> None:
    """End what runs, on a signal: labs would go on by themselves. What waits does not begin."""
    ENDING.set()
    for process in tuple(RUNNING):
        process.terminate()
    sys.exit(128 + number)
