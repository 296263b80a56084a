# SPDX-License-Identifier: Apache-2.0
"""The cost of this process itself to the host, beside the guest's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.machine.machine import Machine


class Footprint(NamedTuple):
    """Bytes: resident and proportional set of the VMM, and the resident part of the guest's memory.

    `swap_rss` is the resident part of a swap disk's aperture and of its room: what of it the guest
    used where it lies.
    """

    vmm_rss: int
    vmm_pss: int
    guest_rss: int
    swap_rss: int


def footprint(
    ram: Sequence[tuple[int, int]], windows: Sequence[tuple[int, int]] = (), pid: int | str = "self"
) -> Footprint:
    """Read /proc/PID/smaps (proc_pid_smaps(5)).

    The guest's RAM, and memory that is none, are told by their (host address, size). Raise OSError
    where that is not allowed.
    """
    known = [(*part, "guest") for part in ram] + [(*part, "swap") for part in windows]
    rss = {"vmm": 0, "guest": 0, "swap": 0}
    pss = dict(rss)
    owner = "vmm"
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            if line[:4] == b"Rss:":
                rss[owner] += int(line.split()[1])
            elif line[:4] == b"Pss:":
                pss[owner] += int(line.split()[1])
            elif b"-" in line[:17]:
                start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
                owner = _owner(known, start, end)
    return Footprint(rss["vmm"] << 10, pss["vmm"] << 10, rss["guest"] << 10, rss["swap"] << 10)


def _owner(known: Sequence[tuple[int, int, str]], start: int, end: int) -> str:
    """Return whose a mapping is.

    It may begin a little before the memory in it does, to line up with huge pages.
    """
    for address, size, owner in known:
        if start < address + size and address < end:
            return owner
    return "vmm"


def of_machine(machine: Machine) -> Footprint:
    """Return what the process costs beside that machine's memory."""
    memory = machine.memory
    slots = [(address, size) for _, size, address in memory.slots()]
    ram = len(memory.ram)
    return footprint(slots[:ram], slots[ram:])
