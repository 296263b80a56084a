# SPDX-License-Identifier: Apache-2.0
"""A Linux guest's log tells how the guest came to its end.

A panic of a kernel without a driver for pvpanic ends in a restart, because of ``panic=-1``, and a
restart is no fault. The kernel prints both on its console, at the highest level (kernel/panic.c,
kernel/reboot.c).
"""

from __future__ import annotations

from pyvmm.machine import result as results

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.result import Result

PANIC = rb"(?m)^(?:\[ *\d+\.\d+\](?:\[ *\w+\])? )?(Kernel panic - not syncing.*?)\r?$"
RESTART = b"reboot: Restarting system"
HALTED = b"reboot: System halted"
#: Of the sentence, bytes: a guest may print what it likes.
LONGEST = 300


def panic_of(log: bytes) -> str:
    """Return the kernel's sentence about its panic, or "" if it had none since it last was told to
    restart.
    """
    import re  # most launches end without

    found = re.compile(PANIC).search(log, log.rfind(RESTART) + 1)
    if found is None:
        return ""
    said = found[1][:LONGEST].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def judge(result: Result, log: bytes) -> None:
    """Make the end of a guest whose kernel panicked a panic, with the kernel's own sentence in its
    detail, and a hang that the guest asked for (halt -f) a halt.
    """
    if result.reason not in results.AFTER_PANIC:
        return
    said = panic_of(log)
    if result.reason == results.HANG and not said and HALTED in log:
        result.reason, result.detail, result.dump = results.HALT, "", None
    if said:
        hung = result.reason == results.HANG
        result.reason = results.PANIC
        result.detail = said if hung else result.detail or said
