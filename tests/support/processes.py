# SPDX-License-Identifier: Apache-2.0
"""What a guest's own /proc says of its processes, for comparison with what is seen from outside."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.linux import Guest

#: Until the last `sleep` of the shell has its name: the program of all commands has another until it knows which it is.
NAMED = 'until read name < /proc/$!/comm && [ "$name" = sleep ]; do :; done'
#: Prints all of /proc for each line of input; "over" ends it. A sleeper that is no part of the shell is there too.
SCRIPT = f"""
sleep 1000 &
{NAMED}
echo sleeper $!
while read word && [ "$word" != over ]; do
    for stat in /proc/[0-9]*/stat; do cat $stat 2> /dev/null; done
    echo "listed"
done
"""
TICK_NS = 10_000_000  # USER_HZ is 100


class Process(NamedTuple):
    """A line of /proc/PID/stat: proc(5)."""

    pid: int
    comm: str
    state: str
    ppid: int
    threads: int
    start_ticks: int
    vsize: int


def parse(line: str) -> Process:
    """Takes the line apart; a name may hold blanks and parentheses."""
    pid, _, rest = line.partition(" (")
    comm, _, fields = rest.rpartition(") ")
    state, ppid, *more = fields.split()
    return Process(int(pid), comm, state, int(ppid), int(more[15]), int(more[17]), int(more[18]))


def listing(guest: Guest) -> dict[int, Process]:
    """Every process by pid, as the guest's /proc has it now."""
    guest.say("list")
    lines = guest.expect("listed\n").splitlines()
    found = [parse(line) for line in lines if line[:1].isdigit() and " (" in line]
    return {process.pid: process for process in found}


def same_name(task: str, shown: str) -> bool:
    """The task's name, against what /proc makes of it: a kernel thread's is longer there, a worker's says its work."""
    cut = len(task) == 15 or task.startswith("kworker/")
    return task == shown or (cut and shown.startswith(task))
