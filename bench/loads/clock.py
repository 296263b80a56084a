# SPDX-License-Identifier: Apache-2.0
"""A program's KVM ioctls, timed by a library that is preloaded into it (ioctl_clock.c)."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.loads import build

RECORD = struct.Struct("=QQIiii")
NAME = "ioctl_clock"
ROOM = 200_000  # records


class Record(NamedTuple):
    """One ioctl; times in nanoseconds."""

    begin: int
    end: int
    request: int
    result: int
    thread: int
    fd: int


def parse(data: bytes) -> list[Record]:
    """Read the records of a file that ioctl_clock.c wrote."""
    return [Record(*fields) for fields in RECORD.iter_unpack(data)]


def library(folder: str) -> str:
    """Compile what is preloaded into a folder, and return its path."""
    return build.compiled(folder, NAME, "-shared", "-fPIC")


def environment(preload: str, target: str = "") -> dict[str, str]:
    """Return the environment that preloads the clock; the program writes its records to `target` at
    its end.
    """
    return os.environ | {
        "LD_PRELOAD": preload,
        "IOCTL_CLOCK": target,
        "IOCTL_CLOCK_RECORDS": str(ROOM),
    }


def trace(preload: str, command: list[str], timeout: float) -> list[Record]:
    """Run a command with the clock, and return its records."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "records"
        subprocess.run(
            command,
            env=environment(preload, str(target)),
            check=True,
            timeout=timeout,
            stdout=subprocess.DEVNULL,
        )
        return parse(target.read_bytes())


def preloaded() -> str:
    """Return the path of the library, which is in this very program.

    Where it is not yet, `python -m bench` runs once more, with it and the same words; this program
    ends with that one's status (SystemExit).
    """
    there = os.environ.get("LD_PRELOAD", "")
    if Path(there).name == NAME:
        return there
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", *sys.argv[1:]]
        done = subprocess.run(command, env=environment(library(folder)), check=False)
        raise SystemExit(done.returncode)


class Clock:
    """The clock that was preloaded into this program."""

    def __init__(self) -> None:
        self._c = ctypes.CDLL(None)
        self._c.ioctl_clock_records.restype = ctypes.c_void_p
        self._c.ioctl_clock_count.restype = ctypes.c_uint64

    def record(self, run: Callable[[], object]) -> list[Record]:
        """Call the function, and return the records of its ioctls."""
        self._c.ioctl_clock_reset()
        run()
        count = self._c.ioctl_clock_count()
        return parse(ctypes.string_at(self._c.ioctl_clock_records(), count * RECORD.size))
