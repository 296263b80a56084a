# SPDX-License-Identifier: Apache-2.0
"""Arms of the suites on memory: what a guest that wants more than its RAM is given instead, by the
names shown.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from bench.rounds import Measure
from pyvmm.demo import swapload
from pyvmm.demo.swapload import DISK, NONE, START_SWAP, Job, Load
from pyvmm.guest.cache import Guest
from pyvmm.vm import VM

RAM = "RAM"
QEMU = "stock, QEMU"
STOCK = "stock, pyvmm"
UNPATCHED = "unpatched kernel"
#: Debian's own kernel with the guest driver as a module: it swaps to an ordinary disk, or the disk's memory is a tier.
DEBIAN = "stock, Debian's kernel"
TIER = "tier, Debian's kernel"
OFF = "bypass off"
SYMCALL = "symcall"
DIRECT = "direct"
SWITCHING = "modes by turns"
BALLOON = "balloon, QEMU"
HOTPLUG = "virtio-mem, QEMU"
#: Swaps to compressed memory of its own.
ZRAM = "zram"
#: Swaps to an ordinary disk, behind compressed memory of its own.
ZSWAP = "zswap"

#: The modes that take turns, and how long each: a pass over memory that is there takes some tens of milliseconds.
TURNS = ("direct", "symcall", "off")
TURN_SECONDS = 0.01
#: Free memory, in KiB, at which the balloon is as large as it will be.
INFLATED = 224 << 10

#: Shell, by an arm's name, where that is not START_SWAP: `$1` are the bytes of what it swaps to.
STARTS = {
    RAM: "",
    BALLOON: f"until awk '/^MemFree/ {{ exit $2 > {INFLATED} }}' /proc/meminfo; do sleep 0.1; done\n",
    ZRAM: """
echo 0 > /proc/sys/vm/page-cluster
echo $1 > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0 ||
    { echo "the guest cannot swap by zram"; exit 1; }
""",
    ZSWAP: f"{START_SWAP}echo 1 > /sys/module/zswap/parameters/enabled\n",
}
#: The machine's settings, by an arm's name.
SWAPS = {
    RAM: NONE, BALLOON: NONE, ZRAM: NONE,
    QEMU: DISK, STOCK: DISK, UNPATCHED: DISK, DEBIAN: DISK, ZSWAP: DISK,
    TIER: "direct", OFF: "off", SYMCALL: "symcall", DIRECT: "direct", SWITCHING: TURNS[0],
}  # fmt: skip


class Arm(NamedTuple):
    """A guest, by one of the names above: its RAM and the swap that it has, in MiB."""

    name: str
    memory: int
    swap_mib: int

    def start(self) -> str:
        """Return the shell's words that start the swap."""
        size = self.swap_mib * swapload.MIB
        return f'set -- {size} "$@"\n{STARTS.get(self.name, START_SWAP)}shift\n'

    def run(
        self,
        guest: Guest,
        job: Job,
        timeout: float,
        around: Callable[[VM, Job], AbstractContextManager[None]] = swapload.bypassing,
    ) -> str:
        """Run a job under pyvmm; as `swapload.run`."""
        arm = swapload.Arm(self.name, self.memory, SWAPS[self.name])
        size = self.swap_mib * swapload.MIB
        return swapload.run(guest, arm, size, job, timeout, around)

    def measure(self, guest: Guest, load: Load, timeout: float) -> dict[str, Any]:
        """Run the program of the demonstration under pyvmm; as `swapload.measure`."""
        files = {swapload.PROGRAM: swapload.program()}
        job = Job(swapload.command(self.start(), load), files, load.memory)
        around = switching if self.name == SWITCHING else swapload.bypassing
        return swapload.parse(self.run(guest, job, timeout, around))


@contextmanager
def switching(vm: VM, job: Job) -> Iterator[None]:
    """Let the modes take turns meanwhile."""
    over = threading.Event()
    swap = vm.swap
    assert swap is not None

    def turn() -> None:
        for mode in itertools.cycle(TURNS):
            swap.mode = mode
            if over.wait(TURN_SECONDS):
                return

    thread = threading.Thread(target=turn, name="switching")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def chosen(made: Mapping[str, Measure], names: Sequence[str]) -> dict[str, Measure]:
    """Return the arms asked for; all if none is."""
    unknown = set(names) - set(made)
    if unknown:
        raise SystemExit(f"bench: no arm {', '.join(unknown)}; there are {', '.join(made)}")
    return {name: made[name] for name in names or made}


def base_of(made: Collection[str]) -> str:
    """Return what the others are compared with: stock swap, if it is there."""
    return STOCK if STOCK in made else next(iter(made))
