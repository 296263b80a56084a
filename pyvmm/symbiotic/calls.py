# SPDX-License-Identifier: Apache-2.0
"""Calls into the guest with names and types: docs/symcall.md is their manual.

Each takes a `raw` first, the function that makes a call by number on some vCPU. Importing this
module gives `VM.symcall` and `Vcpu.symcall` the names; `register` adds others.
"""

from __future__ import annotations

from pyvmm._core import lib
from pyvmm.errors import GuestDataError
from pyvmm.machine.symcall import register
from pyvmm.symbiotic import facts, memory, task
from pyvmm.symbiotic.answer import ask
from pyvmm.symbiotic.facts import Facts
from pyvmm.symbiotic.memory import Lookup, Memory
from pyvmm.symbiotic.swapstats import GuestSwap, swap_evict, swap_stats
from pyvmm.symbiotic.task import Current, Task, TaskList, task_list, tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.symcall import Raw

__all__ = [
    "Current",
    "Facts",
    "GuestSwap",
    "Lookup",
    "Memory",
    "Task",
    "TaskList",
    "read_current",
    "read_facts",
    "read_memory",
    "register",
    "swap_evict",
    "swap_stats",
    "task_list",
    "tasks",
    "test",
]

_WORD = (1 << 64) - 1


def test(raw: Raw, *args: int) -> tuple[int, ...]:
    """Send up to five numbers; the guest gives each back with 1 added.

    Raise SymcallError, GuestDataError if it does not, ConfigError for more numbers.
    """
    padded = (*args, *(0,) * (5 - len(args)))
    answer = tuple(ask(raw, lib.SYMCALL_TEST, *args)[:5])
    expected = tuple(number + 1 & _WORD for number in padded)
    if answer != expected:
        raise GuestDataError(f"test: {expected} expected, the guest answered {answer}")
    return answer[: len(args)]


def read_facts(raw: Raw) -> Facts:
    """Ask the guest's kernel for its release, addresses and notes.

    Raise SymcallError, GuestDataError if the answer is none.
    """
    return facts.parse(ask(raw, lib.SYMCALL_KERNEL_FACTS, want=lib.SYMBIOTIC_DATA_SIZE))


def read_current(raw: Raw) -> Current:
    """Ask which task the vCPU is running. Raise SymcallError; any answer is one."""
    return task.parse_current(ask(raw, lib.SYMCALL_CURRENT_TASK))


def read_memory(raw: Raw) -> Memory:
    """Ask for the guest's memory and swap statistics.

    Raise SymcallError, GuestDataError if the answer is none.
    """
    return memory.parse(ask(raw, lib.SYMCALL_MEMORY, want=lib.SYMBIOTIC_DATA_SIZE))


register("test", test)
register("mem_lookup", memory.lookup)
register("facts", read_facts)
register("current", read_current)
register("tasks", task_list)
register("memory", read_memory)
register("read", memory.read)
register("swap_stats", swap_stats)
register("swap_evict", swap_evict)
