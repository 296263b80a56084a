# SPDX-License-Identifier: Apache-2.0
"""Whether a host can have a machine of some size; told before anything of it is made."""

from __future__ import annotations

import errno
import os

from pyvmm.errors import ConfigError, HostError
from pyvmm.machine.memory import HOLE_END, HOLE_START, ram_layout

#: Open files that a process has beside its vCPUs': fewer than the first are counted, the second are needed at least.
DESCRIPTORS = 256
LEAST_DESCRIPTORS = 24


def check_cpus(cpus: int, most: int) -> None:
    """Raise ConfigError for a number of vCPUs that KVM does not take, HostError for too few
    descriptors (EMFILE).
    """
    if not isinstance(cpus, int) or not 1 <= cpus <= most:
        raise ConfigError(f"{cpus} vCPUs: this KVM takes 1 to {most}")
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 < limit < cpus + DESCRIPTORS:
        needed = len(os.listdir("/proc/self/fd")) + cpus + LEAST_DESCRIPTORS
        if limit < needed:
            raise HostError(
                errno.EMFILE,
                f"{cpus} vCPUs take some {needed} open files, and this process may have {limit}; raise ulimit -n",
            )


def check_memory(memory: int, bits: int) -> None:
    """Raise ConfigError for bytes of RAM whose end no guest with so many bits of physical addresses
    can get to.
    """
    if not isinstance(memory, int):
        raise ConfigError(f"memory of {memory!r} bytes: it is to be a whole number")
    last = ram_layout(memory)[-1]
    if last.gpa + last.size > 1 << bits:
        most = (1 << bits) - (HOLE_END - HOLE_START) >> 20
        raise ConfigError(
            f"memory of {memory >> 20} MiB: guests of this KVM have {bits} bits of physical addresses, which is "
            f"at most {most} MiB"
        )
