# SPDX-License-Identifier: Apache-2.0
"""What this process itself costs the host, beside the guest's memory."""

from __future__ import annotations

from typing import NamedTuple

#: Mappings that are the guest's, by the name of their memfd.
GUEST_FILES = ("/memfd:pyvmm-",)


class Footprint(NamedTuple):
    """Bytes: resident and proportional set of the VMM, and the resident part of the guest's memory."""

    vmm_rss: int
    vmm_pss: int
    guest_rss: int


def footprint(pid: int | str = "self") -> Footprint:
    """Reads /proc/PID/smaps (proc_pid_smaps(5)). Raises OSError where that is not allowed."""
    totals = {True: [0, 0], False: [0, 0]}
    guest = False
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            if line[:4] == b"Rss:":
                totals[guest][0] += int(line.split()[1])
            elif line[:4] == b"Pss:":
                totals[guest][1] += int(line.split()[1])
            elif b"-" in line[:17]:
                guest = any(name.encode() in line for name in GUEST_FILES)
    return Footprint(totals[False][0] << 10, totals[False][1] << 10, totals[True][0] << 10)
