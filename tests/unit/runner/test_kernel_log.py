# SPDX-License-Identifier: Apache-2.0
"""Which lines of a kernel's log tell of a fault."""

from __future__ import annotations

import pytest

from tests.support.kernel_log import faults

WRONG = "[    2.000000] WARNING: CPU: 0 PID: 1 at mm/memory.c:1"


@pytest.mark.parametrize(
    "line",
    [
        WRONG,
        "[    9.1] BUG: Bad page map in process sh  pte:1 pmd:2",
        "[    9.1] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        "[    9.1] WARNING: possible circular locking dependency detected",
        '[    9.1] irq 9: nobody cared (try booting with the "irqpoll" option)',
        "[    9.1] traps: sh[7] general protection fault",
        "[    0.2] ACPI BIOS Error (bug): Could not resolve symbol",
    ],
)
def test_faults_are_seen(line: str) -> None:
    assert faults(f"[    0.0] Linux version 6.12\n{line}\n") == [line]
    assert faults(f"{line}\n".encode()) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "[    0.0] Command line: rcupdate.rcu_cpu_stall_timeout=120",
        "[    0.0] rcu: Hierarchical RCU implementation.",
        "[    0.1] rcu: \tRCU lockdep checking is enabled.",
        "[    1.0] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks",
        "[    9.1] Memory cgroup out of memory: Killed process 77 (torture)",
    ],
)
def test_what_a_healthy_kernel_says_is_no_fault(line: str) -> None:
    assert faults(f"{line}\n{WRONG}") == [WRONG]


def test_a_call_trace_is_one_unless_processes_are_killed() -> None:
    trace = "[    9.1] Call Trace:"
    assert faults(f"{trace}\n{WRONG}") == [trace, WRONG]
    assert faults(f"{trace}\n{WRONG}", killed=True) == [WRONG]
