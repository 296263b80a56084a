# SPDX-License-Identifier: Apache-2.0
"""The emulators of labs, seen from outside: processes by their parents."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.support.waiting import until

#: Seconds for one to start, or to end.
LIMIT = 600.0


class Kind(NamedTuple):
    """What the name of such a process has, and the command line of one that is not only to say what it is."""

    name: str
    words: bytes


QEMU = Kind("qemu", b"-nodefaults")
BOCHS = Kind("bochs", b"bochs-bin\0-q\0")


def emulators(of: int, kind: Kind) -> set[int]:
    """Those that are children of a process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            runs = kind.words in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if runs and kind.name in name and rest.split()[1] == str(of):
            found.add(int(entry.name))
    return found


def wait_for_emulator(process: subprocess.Popen[bytes], kind: Kind) -> int:
    """The one that a lab starts, once it is there."""
    return next(iter(until(lambda: emulators(process.pid, kind), LIMIT)))


def has_ended(pid: int) -> bool:
    """Whether it is no more, or only waits for its parent to ask how it ended."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def is_gone(pid: int) -> bool:
    """Whether it ends, which a process of gigabytes does some time after the signal."""
    return until(lambda: has_ended(pid), LIMIT)
