# SPDX-License-Identifier: Apache-2.0
"""Exit statuses of the command line.

What the guest reports is passed through as it is, so pyvmm's own lie where programs seldom have
theirs.
"""

from __future__ import annotations

OK = 0
GUEST_PANIC = 119
GUEST_FAULT = 120
STOPPED = 121
USAGE = 122
HOST = 123
TIMEOUT = 124
VMM = 125
HUNG_UP = 129
INTERRUPTED = 130
BROKEN_PIPE = 141

MEANINGS = {
    "0..118": "the guest's own: what its command ended with, 0 where it reports none",
    GUEST_PANIC: "the guest kernel panicked",
    GUEST_FAULT: "the guest died of a triple fault, or hangs with every vCPU halted",
    STOPPED: "the guest was stopped from outside (ctrl-a x, SIGTERM, pyvmm stop)",
    USAGE: "bad arguments, or an image that cannot be booted",
    HOST: "the host refused: no KVM, no permission, no memory, no such tap, no room for the output",
    TIMEOUT: "the time given with --timeout passed",
    VMM: "an error of pyvmm or KVM",
    HUNG_UP: "the terminal hung up, or SIGHUP",
    INTERRUPTED: "ctrl-c",
    BROKEN_PIPE: "whoever read the output has gone",
}


def of_error(error: Exception) -> int:
    """Return the status for an exception of `pyvmm.errors`."""
    from pyvmm import errors

    if isinstance(error, (errors.ConfigError, errors.ImageError)):
        return USAGE
    return HOST if isinstance(error, errors.HostError) else VMM


def of_result(reason: str, reported: int | None) -> int:
    """Return the status for the end of a run (`pyvmm.machine.result`)."""
    named = {
        "panic": GUEST_PANIC,
        "triple-fault": GUEST_FAULT,
        "hang": GUEST_FAULT,
        "stopped": STOPPED,
        "timeout": TIMEOUT,
    }
    if reason in ("poweroff", "reboot", "halt"):
        return reported or OK
    return named.get(reason, VMM)
