# SPDX-License-Identifier: Apache-2.0
"""Threads that run Python: deep recursion in C ends in an exception and not in the end of the process."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import sys
import threading

import pytest

from pyvmm.machine.thread import STACK_SIZE, Thread
from tests.support.mappings import mappings

SECONDS = 60
#: The C library may take the guard of a stack out of what it was asked for, in bytes.
MOST_GUARD = 64 << 10

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
    places: list[tuple[int, int]] = []

    def wait() -> None:
        places.append(own_stack())
        ready.set()
        over.wait(SECONDS)

    thread = Thread(wait, "waits")
    thread.start()
    try:
        assert ready.wait(SECONDS)
        bottom, size = places[0]
        assert STACK_SIZE - MOST_GUARD <= size <= STACK_SIZE
        assert resident(bottom, size) < 256 << 10
        [found] = [each for each in mappings() if each.start < bottom + size <= each.end]
        small = "nh" in found.flags
        assert small or not os.path.exists("/sys/kernel/mm/transparent_hugepage")
    finally:
        over.set()
        thread.join()


def own_stack() -> tuple[int, int]:
    """The lowest address and the size of this thread's stack (pthread_attr_getstack(3)).

    Not from /proc: where stacks are guarded without a mapping (glibc 2.42), those of several threads
    are one mapping.
    """
    attributes = ctypes.create_string_buffer(64)  # at least a pthread_attr_t
    bottom, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc = ctypes.CDLL(None)
    assert libc.pthread_getattr_np(ctypes.c_ulong(threading.get_ident()), attributes) == 0
    assert libc.pthread_attr_getstack(attributes, ctypes.byref(bottom), ctypes.byref(size)) == 0
    libc.pthread_attr_destroy(attributes)
    assert bottom.value
    return bottom.value, size.value


def resident(address: int, size: int) -> int:
    """How many bytes from there on are in memory (Documentation/admin-guide/mm/pagemap.rst)."""
    page, entry, present = mmap.PAGESIZE, 8, 1 << 63
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(address // page * entry)
        entries = struct.unpack(f"={size // page}Q", file.read(size // page * entry))
    return page * sum(bool(each & present) for each in entries)
