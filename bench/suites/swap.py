# SPDX-License-Identifier: Apache-2.0
"""A program that wants more than its guest has: in RAM, with stock swap, zram, and SwapBypass, side
by side.

Each round starts a guest for every arm, which fills its memory, works on it at random and then in
order, and measures first touches. What is reported are times, so that less is better.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers import arms, hotplug, qmp, vmm
from bench.peers.arms import Arm
from bench.report.aims import Aim
from bench.rounds import Measure
from bench.suite import Subjects, Suite
from pyvmm.config import SWAP_SERIAL
from pyvmm.demo import swapload
from pyvmm.demo.swapload import Load
from pyvmm.guest.cache import DEFAULT_LINUX, find, find_stock, stock_name
from pyvmm.guest.named import find_guest

MIB = 1 << 20
GUEST_MIB = 256
#: Arms of pyvmm with the project's kernel.
OF_GUEST = (
    arms.STOCK,
    arms.OFF,
    arms.ZRAM,
    arms.ZSWAP,
    arms.SYMCALL,
    arms.DIRECT,
    arms.SWITCHING,
)
#: Arms with Debian's kernel and the guest driver as a module.
OF_DEBIAN = (arms.DEBIAN, arms.TIER)
#: Linux takes hot-plugged memory by blocks of so many MiB.
BLOCK_MIB = 128

FIRST = "pass 1"
LAST = "at random, last pass"
SEQUENTIAL = "in order"
STEADY = "at random, all touched"
FRESH = "first touch, fresh"
SWAPPED = "first touch, swapped"
OUT = "swap-out, a page"

#: Of single operations: what is shown, and the program's word.
PARTS = {"p50": "p50", "p99": "p99", "p99.9": "p999"}

#: The figures that stand for a whole, which have a chart.
SHOWN = (LAST, SEQUENTIAL, STEADY, FRESH, SWAPPED, OUT)

LEGEND = f"""\
The guest has {GUEST_MIB} MiB, in "{arms.RAM}" all that is wanted.
stock: an ordinary virtio-blk disk in the host's memory.
unpatched kernel: the same for a guest whose kernel lacks the patches. Debian's kernel: that with the guest driver as a
module, which swaps to an ordinary disk, or has the memory of the disk as a tier.
bypass off: the disk that can be bypassed, with that switched off; modes by turns: direct, symcall and off, 10 ms
each, for what that does to the slowest. zram: compressed in the guest's own RAM; zswap: the
same, in a fifth of it, before a stock disk. balloon: all that is wanted, of which the host has taken the rest away and
gives it back when the guest runs out, 1 MiB at a time. virtio-mem: all that is wanted comes before the program begins;
Debian's kernel, as only that has the driver.
An operation checks a page and writes to it; a pass has as many as there are pages, or ends when its time is over: the
slow ones have not been everywhere by then. all touched: since they were swapped out. first touch: of memory that has
room in RAM, so that nothing has to leave for it. swap-out: until the last write of MADV_PAGEOUT is done."""


class Common(NamedTuple):
    """The settings that the arms have in common; `plain` is the guest without patches, if it is
    wanted, `debian` that with Debian's kernel and the module, if it is there.
    """

    guest: Any
    plain: Any
    debian: Any
    swap_mib: int
    load: Load
    timeout: float

    def short(self, name: str) -> Arm:
        """Return the arm of a guest that is short of memory."""
        return Arm(name, GUEST_MIB, self.swap_mib)


#: The cost of the patches where nothing is bypassed shows on one and the same disk: that of OFF is another one.
AIMS = (
    Aim(arms.DIRECT, STEADY, arms.RAM, 1.1),
    Aim(arms.DIRECT, SWAPPED, arms.DIRECT, 3, FRESH),
    Aim(arms.DIRECT, LAST, arms.STOCK, 1 / 100),
    Aim(arms.DIRECT, LAST, arms.QEMU, 1 / 100),
    Aim(arms.DIRECT, LAST, arms.ZRAM, 1 / 10),
    Aim(arms.SYMCALL, LAST, arms.STOCK, 1 / 10),
    Aim(arms.SYMCALL, SWAPPED, arms.STOCK, 1 / 10),
    Aim(arms.DIRECT, OUT, arms.STOCK, 1 / 2),
    Aim(arms.STOCK, LAST, arms.UNPATCHED, 1.01),
    Aim(arms.STOCK, SWAPPED, arms.UNPATCHED, 1.01),
    Aim(arms.STOCK, OUT, arms.UNPATCHED, 1.01),
    Aim(arms.TIER, STEADY, arms.RAM, 1.1),
    Aim(arms.TIER, STEADY, arms.DIRECT, 1.2),
    Aim(arms.TIER, LAST, arms.DEBIAN, 1 / 100),
    Aim(arms.TIER, FIRST, arms.DEBIAN, 1 / 10),
)


def prepare() -> None:
    """Make the program, and the guests with Debian's kernel: one has a driver for virtio-mem, one
    the module.
    """
    swapload.program()
    hotplug.prepare()
    find_guest(stock_name(DEFAULT_LINUX, symbiotic=True))


def figures(said: dict[str, Any]) -> dict[str, float]:
    """Return seconds, by the names that are shown, from what the program printed."""
    passes = {f"pass {n + 1}": value for n, value in enumerate(said["passes"])}
    found = {
        **passes,
        LAST: said["passes"][-1],
        SEQUENTIAL: said["sequential"],
        STEADY: said["steady"],
        "filling": said["fill"],
        **{f"at random, {name}": said[key] for name, key in PARTS.items()},
        FRESH: said["fresh"],
    }
    if said["touched"]:
        found[SWAPPED] = said["swapped"]
    if said["out"]:
        found[OUT] = 4096e9 / said["out"]
    return {name: value / 1e9 for name, value in found.items()}


def by_pyvmm(common: Common, arm: Arm, guest: Any = None) -> Measure:
    """Return one run under pyvmm."""
    return lambda: figures(arm.measure(guest or common.guest, common.load, common.timeout))


def qemu_command(common: Common, arm: Arm, folder: str, *devices: str) -> list[str]:
    """Return the same kernel and program under QEMU."""
    argv = swapload.command(arm.start(), common.load)
    files = {swapload.PROGRAM: swapload.program()}
    initrd = vmm.initrd(common.guest, folder, argv, files, f"initrd-{arm.swap_mib}")
    return vmm.qemu(common.guest, initrd, *devices, mib=arm.memory)


def by_qemu(common: Common, folder: str) -> Measure:
    """Return one run under QEMU, with a fresh file in memory, and an I/O thread for it."""
    swap = Path(folder) / "swap"
    devices = vmm.swap_disk(swap, SWAP_SERIAL)
    command = qemu_command(common, common.short(arms.QEMU), folder, *devices)

    def run() -> dict[str, float]:
        vmm.empty(swap, common.swap_mib * MIB)
        return finished(command, common.timeout)

    return run


def finished(command: list[str], timeout: float) -> dict[str, float]:
    """Return what the program in a QEMU said."""
    return figures(swapload.parse(vmm.output(command, timeout)))


def by_balloon(common: Common, folder: str) -> Measure:
    """Return one run under QEMU with all the memory, of which a balloon takes what the others have
    as swap.
    """
    arm = Arm(arms.BALLOON, GUEST_MIB + common.swap_mib, 0)
    door = str(Path(folder) / "qmp")
    command = qemu_command(
        common, arm, folder,
        "-device", "virtio-balloon-device,deflate-on-oom=on", *qmp.options(door),
    )  # fmt: skip

    def run() -> dict[str, float]:
        qmp.soon(door, "balloon", value=GUEST_MIB * MIB)
        return finished(command, common.timeout)

    return run


def by_hotplug(common: Common, folder: str) -> Measure:
    """Return one run under QEMU with as little memory as the others, which gets what they have as
    swap while it runs.
    """
    more = -(-common.swap_mib // BLOCK_MIB) * BLOCK_MIB
    words = common.load.words()
    return lambda: figures(
        swapload.parse(hotplug.run(words, GUEST_MIB, more, folder, common.timeout))
    )


def every_arm(common: Common, folder: str) -> dict[str, Measure]:
    """Return all arms, by the names that are shown."""
    made = {arms.RAM: by_pyvmm(common, Arm(arms.RAM, GUEST_MIB + common.swap_mib, 0))}
    made[arms.QEMU] = by_qemu(common, folder)
    made[arms.BALLOON] = by_balloon(common, folder)
    if hotplug.available():
        made[arms.HOTPLUG] = by_hotplug(common, folder)
    else:
        print(f'without "{arms.HOTPLUG}"; to have it: pyvmm guest stock --linux {hotplug.LINUX}')
    if common.plain:
        made[arms.UNPATCHED] = by_pyvmm(common, common.short(arms.UNPATCHED), common.plain)
    if common.debian:
        for name in OF_DEBIAN:
            made[name] = by_pyvmm(common, common.short(name), common.debian)
    for name in OF_GUEST:
        made[name] = by_pyvmm(common, common.short(name))
    return made


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="of a pass, at most: 5, with --quick 1")
    parser.add_argument("--memory", type=int, default=400, metavar="MIB", help="worked on (400)")
    parser.add_argument("--swap", type=int, default=512, metavar="MIB", help="swap disk (512)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one guest (600)")
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="only this one; repeat"
    )


def find_plain(linux: str, names: Sequence[str]) -> Any:
    """Return the guest without patches, if its arm is asked for, or if it is there; else None."""
    name = f"{linux}-plain"
    if names:
        return find_guest(name) if arms.UNPATCHED in names else None
    found = find(name)
    if found is None:
        print(f'without "{arms.UNPATCHED}"; to have it: pyvmm guest build --linux {name}')
    return found


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    load = Load(args.memory, seconds=args.seconds or (1 if args.quick else 5))
    guest, plain = find_guest(args.linux), find_plain(args.linux, args.arm)
    debian = find_stock(DEFAULT_LINUX, symbiotic=True)
    common = Common(guest, plain, debian, args.swap, load, args.timeout)
    about = {
        "guest_mib": GUEST_MIB, "swap_mib": args.swap, "load": load._asdict(), "shown": SHOWN,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = arms.chosen(every_arm(common, folder), args.arm)
        yield Subjects(made, arms.base_of(made), AIMS, LEGEND, about)


SUITE = Suite(
    "SwapBypass against RAM, stock swap, zram, zswap and a balloon",
    subjects,
    unit="us",
    scale=1e6,
    rounds=7,
    quick=2,
    linux=True,
    options=add_options,
    prepare=prepare,
)
