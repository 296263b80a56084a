# SPDX-License-Identifier: Apache-2.0
"""Threads that run Python: deep recursion in C ends in an exception and not in the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pyvmm.machine.thread import STACK_SIZE, Thread

SECONDS = 60

PROGRAM = """
import json, sys, threading
from pyvmm.machine.thread import Thread

def nested():
    value = []
    for _ in range(100_000):
        value = [value]
    return value

def sort(_):
    return sorted([1], key=sort)[0]

class Sum:
    def __add__(self, other):
        return self + other

deep = {
    "json": lambda: json.loads("[" * 20_000),
    "json objects": lambda: json.loads('{"a":' * 20_000),
    "dumps": lambda: json.dumps(nested()),
    "repr": lambda: repr(nested()),
    "compare": lambda: nested() == nested(),
    "sorted": lambda: sort(0),
    "add": lambda: Sum() + 1,
    "compile": lambda: compile("a" + ".b" * 20_000, "text", "eval"),
}

def run(function):
    try:
        function()
    except RecursionError:
        print("RecursionError", flush=True)

threading.stack_size(256 << 10)  # what the process has set is for its own threads
thread = Thread(run, "deep", (deep[sys.argv[1]],))
thread.start()
thread.join()
assert threading.stack_size() == 256 << 10
"""


@pytest.mark.parametrize(
    "what",
    ["json", "json objects", "dumps", "repr", "compare", "sorted", "add", "compile"],
)
def test_deep_recursion_is_an_exception(what: str) -> None:
    command = [sys.executable, "-c", PROGRAM, what]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (ran.returncode, ran.stdout) == (0, "RecursionError\n"), ran.stderr


def test_what_is_not_used_costs_addresses_only() -> None:
    """A thread waits; its stack is there in full, in small pages, and next to nothing of it in memory."""
    over, ready = threading.Event(), threading.Event()
    mark = b"Size:           %8d kB\n" % (STACK_SIZE >> 10)

    def wait() -> None:
        ready.set()
        over.wait(SECONDS)

    thread = Thread(wait, "waits")
    thread.start()
    try:
        assert ready.wait(SECONDS)
        stacks = [part for part in mappings() if part[0] == mark]
        assert stacks
        assert min(int(lines[1].split()[1]) for lines in stacks) < 256
        small = any(b" nh " in lines[2] for lines in stacks)
        assert small or not os.path.exists("/sys/kernel/mm/transparent_hugepage")
    finally:
        over.set()
        thread.join()


def mappings() -> list[tuple[bytes, bytes, bytes]]:
    """(Size, Rss, VmFlags) of each mapping of this process (proc_pid_smaps(5))."""
    found, lines = [], {b"Size": b"", b"Rss": b""}
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            name = line.partition(b":")[0]
            if name in lines:
                lines[name] = line
            elif name == b"VmFlags":
                found.append((lines[b"Size"], lines[b"Rss"], line))
    return found
