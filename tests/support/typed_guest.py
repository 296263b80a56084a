# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the guests of typed calls: `Raw` is called as a VM is, and a function answers for the guest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.errors import SymcallError
from pyvmm.machine.symcall import Results

if TYPE_CHECKING:
    from collections.abc import Callable

WORD = st.integers(0, 2**64 - 1)
UNKNOWN = 2**64 - 1

#: What include/symbiotic.h says in C, once more: guests that exist have it like this, so it never changes.
FACTS_LAYOUT = struct.Struct("<IIQQQQIIQIIQ64s64s")
TASK_LAYOUT = struct.Struct("<IIIIc3xIIIQQQQQQ16s")
MEMORY_LAYOUT = struct.Struct("<II14Q")


def results(*registers: int, data: bytes = b"") -> Results:
    return Results(*registers, *(0,) * (5 - len(registers)), data)


def refusal(code: int, reason: str = "error") -> SymcallError:
    return SymcallError("the guest said no", reason, code)


class Raw:
    """What VM.symcall and Vcpu.symcall hand to typed calls; `serve` plays the guest."""

    def __init__(self, serve: Callable[..., Results], *, patient: bool = False) -> None:
        self.serve = serve
        self.calls: list[tuple[int, ...]] = []
        if patient:
            self.patient = True

    def __call__(self, number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
        assert len(args) <= 5
        assert 0 <= want <= lib.SYMBIOTIC_DATA_SIZE
        self.calls.append((number, *args))
        found = self.serve(number, *args)
        return found._replace(data=found.data[:want])


def structure(layout: struct.Struct, *fields: object, extra: bytes = b"") -> Results:
    data = layout.pack(layout.size + len(extra), *fields) + extra
    return results(len(data), data=data + b"left over from before")


def record(pid: int, *, comm: bytes = b"sh", state: bytes = b"S", rss: int = 4096) -> bytes:
    return TASK_LAYOUT.pack(pid, pid, 1, 0, state, 4, 1, 1, 10, 20, 30, rss, 0, UNKNOWN, comm)


def page(*pids: int, after: int = 0, extra: int = 0) -> Results:
    data = b"".join(record(pid) + bytes(extra) for pid in pids)
    return results(len(pids), after, 96 + extra, data=data)


def endless(number: int, cursor: int, threads: int) -> Results:
    """A guest with as many tasks as its pids can name."""
    page = b"".join(packed(pid) for pid in range(cursor + 1, cursor + 33))
    return results(32, cursor + 32, TASK_LAYOUT.size, data=page)


def packed(pid: int) -> bytes:
    """The record of a task that says nothing else."""
    return TASK_LAYOUT.pack(pid, pid, 1, 0, b"R", 0, 0, 1, *(1 << 60,) * 6, b"\x1b" * 16)
