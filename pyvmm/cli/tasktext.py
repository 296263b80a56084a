# SPDX-License-Identifier: Apache-2.0
"""The tasks of a guest, as `pyvmm ps` and `pyvmm top` show them."""

from __future__ import annotations

from typing import Any

from pyvmm.launch import human


def clock(nanoseconds: int | None) -> str:
    """Write processor time as minutes:seconds."""
    if nanoseconds is None:
        return "-"
    hundredths = nanoseconds // 10_000_000
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def used(task: dict[str, Any]) -> int | None:
    """Return nanoseconds of processor time, if the guest says."""
    parts = (task["utime_ns"], task["stime_ns"])
    return None if None in parts else sum(parts)


def command(task: dict[str, Any]) -> str:
    """Return the task's name, a kernel thread's in brackets, as ps(1) has it."""
    name = human.printable(task["comm"])
    return f"[{name}]" if task["kernel_thread"] else name
