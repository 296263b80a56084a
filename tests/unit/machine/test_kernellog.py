# SPDX-License-Identifier: Apache-2.0
"""The panic of a guest's kernel is found in its log."""

from __future__ import annotations

import pytest

from pyvmm.machine import result as results
from pyvmm.machine.kernellog import judge, panic_of
from pyvmm.machine.result import Result

MOUNT = (
    b"[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
)
SENTENCE = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
RESTART = b"[    5.0] reboot: Restarting system\r\n"
AGAIN = b"[    1.0] Rebooting in 0 seconds..\r\n"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", ""),
        (RESTART, ""),
        (MOUNT + AGAIN, SENTENCE),
        (b"[    0.9][    T1] Kernel panic - not syncing: x\n", "Kernel panic - not syncing: x"),
        (b"Kernel panic - not syncing: x", "Kernel panic - not syncing: x"),
        (MOUNT + b"[    0.9] ---[ end Kernel panic - not syncing: other ]---\n", SENTENCE),
        (RESTART + MOUNT, SENTENCE),
        # Somebody printed it, and the kernel went on to a restart that was asked for.
        (MOUNT + RESTART, ""),
        (b"a line about Kernel panic - not syncing: x\n", ""),
        (b"Kernel panic - not syncing: \x1b[2J\xff\n", "Kernel panic - not syncing: ?[2J\ufffd"),
        (
            b"Kernel panic - not syncing: " + b"x" * 60000,
            "Kernel panic - not syncing: " + "x" * 272,
        ),
    ],
)
def test_the_panic_of_a_log(log: bytes, said: str) -> None:
    assert panic_of(log) == said


@pytest.mark.parametrize(
    ("reason", "after"),
    [
        (results.REBOOT, results.PANIC),
        (results.TRIPLE_FAULT, results.PANIC),
        (results.HANG, results.PANIC),
        (results.PANIC, results.PANIC),
        (results.POWEROFF, results.POWEROFF),
        (results.STOPPED, results.STOPPED),
        (results.TIMEOUT, results.TIMEOUT),
    ],
)
def test_a_restart_after_a_panic_is_a_panic(reason: str, after: str) -> None:
    result = Result(reason)
    judge(result, MOUNT + AGAIN)
    judge(result, MOUNT + AGAIN)
    assert result.reason == after
    assert result.detail == (SENTENCE if after == results.PANIC else "")
    asked = Result(reason)
    judge(asked, RESTART)
    assert (asked.reason, asked.detail) == (reason, "")


def test_a_panic_is_no_success() -> None:
    result = Result(results.REBOOT)
    assert result.ok
    judge(result, MOUNT)
    assert not result.ok


def test_a_halt_that_was_asked_for_is_no_hang() -> None:
    result = Result(results.HANG, detail="every vCPU has halted")
    judge(result, b"[    3.1] a line\r\n")
    assert (result.reason, result.ok) == (results.HANG, False)
    judge(result, b"[    3.2] reboot: System halted\r\n")
    assert (result.reason, result.ok, result.detail) == (results.HALT, True, "")
    told = Result(results.HANG, detail="every vCPU has halted")
    judge(told, MOUNT)
    assert told.detail == SENTENCE
