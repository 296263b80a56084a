"""Two guests that swap, in a host that runs short of memory for a while.

    python -m tests.support.squeezed POLICY [MIB]     in a lab of 1536 MiB; prints a line of JSON

Each guest has 192 MiB and a program of 400 MiB, which wanders over its pages. Once both have touched
some, a program of the host takes MIB more (310), and gives them back when both have touched many
more. Who is killed for want of memory?
"""

from __future__ import annotations

import json
import mmap
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvmm.guest.program import compiled
from tests.support import linux

if TYPE_CHECKING:
    from pyvmm.swap.disk import SwapStats

PROGRAM = Path(__file__).parent / "programs" / "wander.c"
MIB = 1 << 20
GUEST_MIB, WORK_MIB, SWAP = 192, 400, "1G"
HOG_MIB = 310
#: Touches of each guest before the program of the host comes, and while it stays: of a fifth of its pages, of all.
BEFORE, DURING = 20_000, 100_000
PATIENCE = 900.0


def program() -> Path:
    """The program of the guests, best compiled before the lab is there."""
    return compiled("wander", [PROGRAM])


def guest(policy: str) -> int:
    """Runs one guest in this process until there is something to read: `at TOUCHES`, then its numbers as JSON."""
    made = linux.Guest(
        f"wander {WORK_MIB}; echo STATUS=$?",
        memory=f"{GUEST_MIB}M",
        params="quiet pyvmm.swap=pyvmm-swap",
        files={"/bin/wander": program()},
    )
    swap = made.vm.add_swap(SWAP, "direct", policy=policy)
    made.start()
    made.expect("filled", PATIENCE)
    while not select.select([sys.stdin], [], [], 0)[0] and "STATUS=" not in made.text:
        made.pump(1)
        print("at", *re.findall(r"^at (\d+)", made.text, re.MULTILINE)[-1:], flush=True)
    stats = swap.stats
    made.say("end")
    made.expect("STATUS=", PATIENCE)
    print(json.dumps(numbers(stats, made.text)), flush=True)
    made.vm.close()
    return 0


def numbers(stats: SwapStats, text: str) -> dict[str, Any]:
    """What became of a guest: its program's words, and its swap disk while that ran."""
    wandered = re.search(r"(\d+) touches, (\d+) wrong", text)
    return {
        "touches": int(wandered[1]) if wandered else None,
        "wrong": int(wandered[2]) if wandered else None,
        "store_mib": stats.bytes_used // MIB,
        "evictions": stats.evictions,
        "queue_mib": (stats.bytes_in + stats.bytes_out) // MIB,
        "adopted": stats.guest.adopted if stats.guest else None,
    }


def hog(mib: int) -> int:
    """Takes memory of the host until its input ends."""
    taken = mmap.mmap(-1, mib * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
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


class Wanderer(threading.Thread):
    """A guest in a process of its own, and what it says."""

    def __init__(self, policy: str) -> None:
        super().__init__(daemon=True)
        self.process = start("guest", policy)
        self.touches = 0
        self.said: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        while line := line_of(self.process):
            if line.startswith("{"):
                self.said = json.loads(line)
            elif line[3:]:
                self.touches = int(line[3:])

    def end(self) -> dict[str, Any]:
        """Has it end, and gives its status and its numbers."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("end\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it was killed, as its status says
        self.join()
        return {"status": self.process.wait(), **self.said}


def wait_for(guests: list[Wanderer], more: int) -> int:
    """Waits until each has touched so many more pages, or is gone. The fewest bytes that the host had meanwhile."""
    marks = [each.touches + more for each in guests]
    lowest = available()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and any(
        each.is_alive() and each.touches < mark for each, mark in zip(guests, marks, strict=True)
    ):
        time.sleep(0.5)
        lowest = min(lowest, available())
    return lowest


def squeeze(policy: str, mib: int) -> dict[str, Any]:
    """What became of the guests, and how short the host was."""
    guests = [Wanderer(policy) for _ in range(2)]
    before = wait_for(guests, BEFORE)
    hogging = start("hog", str(mib))
    taken = line_of(hogging)
    lowest = wait_for(guests, DURING)
    hogging.communicate()
    return {
        "policy": policy,
        "hog_mib": mib,
        "hog": hogging.returncode if taken else "killed",
        "before_mib": before // MIB,
        "lowest_mib": lowest // MIB,
        "guests": [each.end() for each in guests],
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
        return hog(int(words[1]))
    print(json.dumps(squeeze(words[0], int(words[1]) if words[1:] else HOG_MIB)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
