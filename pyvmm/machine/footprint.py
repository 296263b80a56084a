# SPDX-License-Identifier: Apache-2.0
"""What this process itself costs the host, beside the guest's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.machine.memory import HUGE_PAGE

if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine


class Footprint(NamedTuple):
    """Bytes: resident and proportional set of the VMM, and the resident part of the guest's memory."""

    vmm_rss: int
    vmm_pss: int
    guest_rss: int


def footprint(guest_start: int, guest_size: int, pid: int | str = "self") -> Footprint:
    """Reads /proc/PID/smaps (proc_pid_smaps(5)); the guest's RAM is told by its host addresses.

    Raises OSError where that is not allowed.
    """
    totals = {True: [0, 0], False: [0, 0]}
    guest = False
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            if line[:4] == b"Rss:":
                totals[guest][0] += int(line.split()[1])
            elif line[:4] == b"Pss:":
                totals[guest][1] += int(line.split()[1])
            elif b"-" in line[:17]:
                start = int(line[: line.index(b"-")], 16)
                guest = guest_start <= start < guest_start + guest_size
    return Footprint(totals[False][0] << 10, totals[False][1] << 10, totals[True][0] << 10)


def of_machine(machine: Machine) -> Footprint:
    """What the process costs beside that machine's RAM."""
    # A mapping may begin a little before its RAM does, to line up with huge pages.
    margin = HUGE_PAGE
    return footprint(machine.memory.address - margin, machine.memory.size + margin)
