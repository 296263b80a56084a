# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with a swap disk, and the program that tortures what is swapped to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvmm.guest.program import compiled
from tests.support import linux

if TYPE_CHECKING:
    from pyvmm.devices.virtio_blk import VirtioBlk

SOURCES = Path(__file__).with_name("torture")
MIB = 1 << 20
SERIAL = "pyvmm-swap"
#: No swap bypass is offered at all: an ordinary disk in memory.
STOCK = "stock"

#: Shell functions: the swap disk found by its serial number, the other by not having it. A disk without sectors is a
#: tier: nobody swaps to it.
PREPARE = f"""
for disk in /sys/block/vd*; do
    case $(cat $disk/serial) in {SERIAL}) swap=/dev/${{disk##*/}};; refuge) refuge=/dev/${{disk##*/}};;
        *) other=/dev/${{disk##*/}};; esac
done
start_swap() {{ [ $(cat /sys/block/${{swap##*/}}/size) = 0 ] || grep -q "^$swap " /proc/swaps ||
    {{ mkswap $swap > /dev/null; swapon -d $swap; }}; }}
start_refuge() {{ mkswap $refuge > /dev/null; swapon $refuge; }}
used() {{ awk -v disk=$swap '$1 == disk {{ print "USED=" $4 }}' /proc/swaps; }}
start_swap
"""


def torture() -> Path:
    """The program of torture/, which uses memory in every way that Linux has: out of the guests' cache."""
    return compiled("torture", sorted(SOURCES.glob("*.[ch]")))


class SwapGuest(linux.Guest):
    """A guest whose script finds a swap disk on, `torture` in its path, and a disk to overwrite.

    `mode` is that of the bypass, or STOCK. `disk_mib` is the other disk's size, `refuge_mib` that of a second swap
    disk, an ordinary one, which is off until the script says `start_refuge`. With `card` there is a network card,
    whose other end hears what is sent and says nothing.
    """

    def __init__(
        self,
        script: str,
        mode: str,
        *,
        swap_mib: int = 256,
        disk_mib: int = 0,
        refuge_mib: int = 0,
        card: bool = False,
        swap: dict[str, Any] | None = None,
        files: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        options = {"cpus": 2, "memory": "128M", "params": linux.PATIENT, **options}
        super().__init__(
            PREPARE + script, files={"/bin/torture": torture(), **(files or {})}, **options
        )
        self.memfds: list[int] = []
        if mode == STOCK:
            self.add_memory_disk(SERIAL, swap_mib)
        else:
            self.vm.add_swap(swap_mib * MIB, mode, serial=SERIAL, **(swap or {}))
        if card:
            self.vm.add_net(f"torture{os.getpid() % 100000}")
        if disk_mib:
            self.add_memory_disk("other", disk_mib)
        if refuge_mib:
            self.refuge = self.add_memory_disk("refuge", refuge_mib)

    def add_memory_disk(self, serial: str, mib: int) -> VirtioBlk:
        """A disk whose contents are gone with the guest."""
        fd = os.memfd_create(serial)
        os.ftruncate(fd, mib * MIB)
        self.memfds.append(fd)
        return self.vm.add_disk(fd, serial=serial)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        for fd in self.memfds:
            os.close(fd)
