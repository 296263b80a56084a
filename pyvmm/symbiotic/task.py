# SPDX-License-Identifier: Apache-2.0
"""Tasks of a guest: the one that runs on a CPU, and all of them, page by page."""

from __future__ import annotations

import time

from pyvmm._core import ffi, lib
from pyvmm.errors import GuestDataError, LimitError
from pyvmm.machine.question import SECONDS
from pyvmm.symbiotic.answer import ask, known, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NamedTuple

    from pyvmm.machine.symcall import Raw, Results
else:
    from pyvmm.record import NamedTuple

_POINTER = ffi.typeof("struct symbiotic_task *")
_SIZE = ffi.sizeof("struct symbiotic_task")

_LOW = 0xFFFF_FFFF

#: A pid is below this on every 64-bit Linux (PID_MAX_LIMIT), so a cursor is at most this.
PID_LIMIT = 1 << 22
#: In an answer: a guest may have more, or say so. These take 5 s of Python, 100 MiB and 25 MiB of JSON.
MAX_TASKS = 1 << 16
#: Full pages of them are an eighth of this. A guest that sends as many that are nearly empty is given up on.
MAX_PAGES = 1 << 14


class Current(NamedTuple):
    """The task that a vCPU was running when it was interrupted; `address` is that of its
    task_struct.

    `kernel_thread`: it has no user space; `exiting`: it is on its way out; `idle`: the CPU had
    nothing to do.
    """

    pid: int
    tgid: int
    comm: str
    cpu: int
    kernel_thread: bool
    exiting: bool
    idle: bool
    address: int


class Task(NamedTuple):
    """One process or thread: ids as seen from the guest's initial namespaces.

    `state` is a letter as in /proc (R S D Z T t X I P; ? if it is none). Times are in nanoseconds,
    `start_ns` since the guest's boot. Memory is in bytes: `vsize_bytes` exactly, the others off by
    up to 32 pages for each CPU, as the kernel counts them. None is what the guest cannot say. `cpu`
    is the one it runs on or ran on last, `threads` counts those of its process. The flags are as in
    `Current`.
    """

    pid: int
    tgid: int
    ppid: int
    uid: int
    state: str
    comm: str
    cpu: int
    threads: int
    kernel_thread: bool
    exiting: bool
    idle: bool
    start_ns: int | None
    utime_ns: int | None
    stime_ns: int | None
    rss_bytes: int | None
    swap_bytes: int | None
    vsize_bytes: int | None


def _flags(flags: int) -> tuple[bool, bool, bool]:
    bits = (lib.SYMBIOTIC_TASK_KTHREAD, lib.SYMBIOTIC_TASK_EXITING, lib.SYMBIOTIC_TASK_IDLE)
    kernel_thread, exiting, idle = (bool(flags & bit) for bit in bits)
    return kernel_thread, exiting, idle


def parse_current(results: Results) -> Current:
    """Return the answer to CURRENT_TASK; any bits make one."""
    ids, where = results.rbx, results.rcx
    comm = (results.rdx | results.rsi << 64).to_bytes(16, "little")
    flags = _flags(where >> 32)
    return Current(ids & _LOW, ids >> 32, text(comm), where & _LOW, *flags, results.rdi)


def parse_task(record: Any) -> Task:
    """Return one record of TASKS, a `struct symbiotic_task`."""
    letter = record.state
    kernel_thread, exiting, idle = _flags(record.flags)
    return Task(
        pid=record.pid,
        tgid=record.tgid,
        ppid=record.ppid,
        uid=record.uid,
        state=letter.decode() if letter.isalpha() else "?",
        comm=text(bytes(ffi.buffer(record.comm))),
        cpu=record.cpu,
        threads=record.threads,
        kernel_thread=kernel_thread,
        exiting=exiting,
        idle=idle,
        start_ns=known(record.start_ns),
        utime_ns=known(record.utime_ns),
        stime_ns=known(record.stime_ns),
        rss_bytes=known(record.rss_bytes),
        swap_bytes=known(record.swap_bytes),
        vsize_bytes=known(record.vsize_bytes),
    )


def tasks(raw: Raw, threads: bool = False) -> Iterator[Task]:
    """Yield every process of the guest by pid, with `threads` every thread; a page is asked for
    when it is needed.

    Tasks come and go meanwhile: each that was there all along is seen, and none twice. Raise
    SymcallError, GuestDataError for pages that cannot be, and when there is no end to them, and
    LimitError after `MAX_TASKS` of them or 10 s of calls.
    """
    cursor = last = seen = 0
    spent = 0.0
    for _ in range(MAX_PAGES):
        began = time.monotonic()
        results = ask(raw, lib.SYMCALL_TASKS, cursor, int(threads), want=lib.SYMBIOTIC_DATA_SIZE)
        page = [parse_task(record) for record in _records(results)]
        spent += time.monotonic() - began
        for task in page:
            # A thread that execs takes over the pid of its process, and may so be met again.
            if task.pid > last:
                if seen == MAX_TASKS:
                    raise LimitError(f"the guest has more than {MAX_TASKS} tasks, or says so")
                last = task.pid
                seen += 1
                yield task
        after = results.rcx
        if after == 0:
            return
        if not cursor < after <= PID_LIMIT:
            raise GuestDataError(f"tasks: after pid {cursor} the guest wants to go on at {after}")
        if spent > SECONDS:
            raise LimitError(f"the guest took longer than {SECONDS:g} s to name them")
        cursor = after
    raise GuestDataError(f"tasks: no end after {MAX_PAGES} pages; the last began at pid {cursor}")


class TaskList(list[Task]):
    """Tasks by pid. `cut` says why there are no more of them, None if these are all."""

    cut: str | None = None


def task_list(raw: Raw, threads: bool = False) -> TaskList:
    """Return all of `tasks` at once, or what there was of them at its limits.

    Raise what that does otherwise.
    """
    found = TaskList()
    try:
        found.extend(tasks(raw, threads))
    except LimitError as error:
        found.cut = f"cut after {len(found)} tasks: {error}"
    return found


def _records(results: Results) -> Iterator[Any]:
    count, size, data = results.rbx, results.rdx, results.data
    # Longer records are a newer guest's: the fields known here come first.
    if count and not _SIZE <= size <= lib.SYMBIOTIC_DATA_SIZE:
        raise GuestDataError(
            f"tasks: the guest's records have {size} bytes; there should be {_SIZE} or more"
        )
    if count * size > len(data):
        raise GuestDataError(f"tasks: {count} records of {size} bytes are more than were sent")
    begin = ffi.from_buffer(data)
    return (ffi.cast(_POINTER, begin + at) for at in range(0, count * size, size or 1))
