# SPDX-License-Identifier: Apache-2.0
"""Two guests that swap, in a host that runs short of memory for a while.

    python -m tests.support.squeezed POLICY     in a lab of 1536 MiB; prints a line of JSON

Each guest has 192 MiB and a program of 400 MiB, which wanders over its pages from beginning to end. After some time a
program of the host takes 310 MiB more, and gives them back later. Who is killed for want of memory?
"""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyvmm.guest.program import compiled
from tests.support import linux

PROGRAM = Path(__file__).parent / "programs" / "wander.c"
MIB = 1 << 20
GUEST_MIB, WORK_MIB, SWAP = 192, 400, "1G"
HOG_MIB = 310
#: Of the guests' clocks from the filling on; of the host's before the hog comes, and that it stays.
WANDER, BEFORE, DURING = 90, 35, 35
PATIENCE = 900.0


def program() -> Path:
    """The program of the guests, best compiled before the lab is there."""
    return compiled("wander", [PROGRAM])


def guest(policy: str) -> int:
    """One guest, in this process; its numbers as JSON at the end."""
    made = linux.Guest(
        f"wander {WORK_MIB} {WANDER}; echo STATUS=$?",
        memory=f"{GUEST_MIB}M",
        params="quiet pyvmm.swap=pyvmm-swap",
        files={"/bin/wander": program()},
    )
    swap = made.vm.add_swap(SWAP, "direct", policy=policy)
    made.start()
    made.expect("filled", PATIENCE)
    print("filled", flush=True)
    made.expect("STATUS=", PATIENCE)
    stats = swap.stats
    wandered = re.search(r"(\d+) touches, (\d+) wrong", made.text)
    said: dict[str, Any] = {
        "touches": int(wandered[1]) if wandered else None,
        "wrong": int(wandered[2]) if wandered else None,
        "store_mib": stats.bytes_used // MIB,
        "evictions": stats.evictions,
        "queue_mib": (stats.bytes_in + stats.bytes_out) // MIB,
        "adopted": stats.guest.adopted if stats.guest else None,
    }
    made.vm.close()
    print(json.dumps(said), flush=True)
    return 0


def hog() -> int:
    """Takes memory of the host until its input ends."""
    taken = mmap.mmap(-1, HOG_MIB * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(taken), mmap.PAGESIZE):
        taken[at] = 1
    print("taken", flush=True)
    sys.stdin.read()
    return 0


def start(*words: str) -> subprocess.Popen[str]:
    """A further one of these, in a process of its own."""
    command = [sys.executable, "-m", "tests.support.squeezed", *words]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def squeeze(policy: str) -> dict[str, Any]:
    """What became of the guests, and how short the host was."""
    guests = [start("guest", policy) for _ in range(2)]
    for each in guests:
        assert line_of(each) == "filled"
    time.sleep(BEFORE)
    hogging = start("hog")
    taken = line_of(hogging)
    lowest = available()
    until = time.monotonic() + DURING
    while time.monotonic() < until:
        lowest = min(lowest, available())
        time.sleep(0.5)
    hogging.communicate()
    outcomes = []
    for each in guests:
        said = line_of(each)
        status = each.wait()
        outcomes.append({"status": status, **(json.loads(said) if said else {})})
    return {
        "policy": policy,
        "hog": hogging.returncode if taken else "killed",
        "lowest_mib": lowest // MIB,
        "guests": outcomes,
    }


def available() -> int:
    """Bytes of the host's memory that are to be had."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = re.search(r"MemAvailable: +(\d+) kB", file.read())
    assert found is not None
    return int(found[1]) << 10


def main(words: list[str]) -> int:
    """One process of the experiment, or all of it."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if words[0] == "guest":
        return guest(words[1])
    if words[0] == "hog":
        return hog()
    print(json.dumps(squeeze(words[0])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
