# SPDX-License-Identifier: Apache-2.0
"""A program that wants more than its guest has: in RAM, with stock swap, zram, and SwapBypass, side by side.

Each round starts a guest for every arm, which fills its memory, works on it at random and then in order, and measures
first touches. What is reported are times, so that less is better.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import options, peers
from bench.peers import hotplug, qmp
from bench.report import chart, record, stats
from bench.report.aims import Aim, text, verdicts
from bench.report.stats import Samples
from pyvmm.demo import logbars, swapload
from pyvmm.demo.swapload import DISK, ZRAM, Arm, Load

MIB = 1 << 20
GUEST_MIB = 256
RAM = "RAM"
QEMU = "stock, QEMU"
STOCK = "stock, pyvmm"
UNPATCHED = "unpatched kernel"
OFF = "bypass off"
SYMCALL = "symcall"
DIRECT = "direct"
ZSWAP = swapload.ZSWAP
SWITCHING = "modes by turns"
BALLOON = "balloon, QEMU"
HOTPLUG = "virtio-mem, QEMU"
#: Linux takes hot-plugged memory by blocks of so many MiB.
BLOCK_MIB = 128

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
The guest has {GUEST_MIB} MiB, in "{RAM}" all that is wanted. stock: an ordinary virtio-blk disk in the host's memory.
unpatched kernel: the same for a guest whose kernel lacks the patches.
bypass off: the disk that can be bypassed, with that switched off; modes by turns: direct, symcall and off, 10 ms
each, for what that does to the slowest. zram: compressed in the guest's own RAM; zswap: the
same, in a fifth of it, before a stock disk. balloon: all that is wanted, of which the host has taken the rest away and
gives it back when the guest runs out, 1 MiB at a time. virtio-mem: all that is wanted comes before the program begins;
Debian's kernel, as only that has the driver.
An operation checks a page and writes to it; a pass has as many as there are pages, or ends when its time is over: the
slow ones have not been everywhere by then. all touched: since they were swapped out. first touch: of memory that has
room in RAM, so that nothing has to leave for it. swap-out: until the last write of MADV_PAGEOUT is done."""

Measure = Callable[[], dict[str, float]]


class Arms(NamedTuple):
    """What the arms have in common; `plain` is the guest without patches, if it is wanted."""

    guest: Any
    plain: Any
    swap_mib: int
    load: Load
    timeout: float


#: What the patches cost where nothing is bypassed is told on one and the same disk: that of OFF is another one.
AIMS = (
    Aim(DIRECT, STEADY, RAM, 1.1),
    Aim(DIRECT, SWAPPED, DIRECT, 3, FRESH),
    Aim(DIRECT, LAST, STOCK, 1 / 100),
    Aim(DIRECT, LAST, QEMU, 1 / 100),
    Aim(DIRECT, LAST, ZRAM, 1 / 10),
    Aim(SYMCALL, LAST, STOCK, 1 / 10),
    Aim(SYMCALL, SWAPPED, STOCK, 1 / 10),
    Aim(DIRECT, OUT, STOCK, 1 / 2),
    Aim(STOCK, LAST, UNPATCHED, 1.01),
    Aim(STOCK, SWAPPED, UNPATCHED, 1.01),
    Aim(STOCK, OUT, UNPATCHED, 1.01),
)


def prepare() -> None:
    """What is to be fetched before the lab."""
    hotplug.prepare()


def figures(said: dict[str, Any]) -> dict[str, float]:
    """Seconds, by the names that are shown, from what the program printed."""
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


def by_pyvmm(arms: Arms, arm: Arm, guest: Any = None) -> Measure:
    """One run under pyvmm."""
    size = arms.swap_mib * MIB
    return lambda: figures(
        swapload.measure(guest or arms.guest, arm, size, arms.load, arms.timeout)
    )


def qemu_command(arms: Arms, arm: Arm, folder: str, *devices: str) -> list[str]:
    """The same kernel and program under QEMU."""
    from pyvmm.guest.program import program

    argv = swapload.command(arm, arms.swap_mib * MIB, arms.load)
    files = {swapload.PROGRAM: program("swapload")}
    initrd = peers.initrd(arms.guest, folder, argv, files, f"initrd-{arm.swap}")
    return peers.qemu(arms.guest, initrd, *devices, mib=arm.memory)


def by_qemu(arms: Arms, folder: str) -> Measure:
    """One run under QEMU, with a fresh file in memory, and an I/O thread for it."""
    swap = Path(folder) / "swap"
    devices = peers.swap_disk(swap, swapload.SERIAL)
    command = qemu_command(arms, Arm(QEMU, GUEST_MIB, DISK), folder, *devices)

    def run() -> dict[str, float]:
        peers.empty(swap, arms.swap_mib * MIB)
        return finished(command, arms.timeout)

    return run


def finished(command: list[str], timeout: float) -> dict[str, float]:
    """What the program in a QEMU said."""
    return figures(swapload.parse(peers.output(command, timeout)))


def by_balloon(arms: Arms, folder: str) -> Measure:
    """One run under QEMU with all the memory, of which a balloon takes what the others have as swap."""
    arm = Arm(BALLOON, GUEST_MIB + arms.swap_mib, swapload.BALLOON)
    door = str(Path(folder) / "qmp")
    command = qemu_command(
        arms, arm, folder,
        "-device", "virtio-balloon-device,deflate-on-oom=on", *qmp.options(door),
    )  # fmt: skip

    def run() -> dict[str, float]:
        qmp.soon(door, "balloon", value=GUEST_MIB * MIB)
        return finished(command, arms.timeout)

    return run


def by_hotplug(arms: Arms, folder: str) -> Measure:
    """One run under QEMU with as little memory as the others, which gets what they have as swap while it runs."""
    more = -(-arms.swap_mib // BLOCK_MIB) * BLOCK_MIB
    words = arms.load.words()
    return lambda: figures(
        swapload.parse(hotplug.run(words, GUEST_MIB, more, folder, arms.timeout))
    )


def subjects(arms: Arms, folder: str) -> dict[str, Measure]:
    """All arms, by the names that are shown."""
    of_guest = {
        STOCK: DISK,
        OFF: "off",
        ZRAM: ZRAM,
        ZSWAP: ZSWAP,
        SYMCALL: "symcall",
        DIRECT: "direct",
        SWITCHING: swapload.SWITCHING,
    }
    made = {RAM: by_pyvmm(arms, Arm(RAM, GUEST_MIB + arms.swap_mib, "none"))}
    made[QEMU] = by_qemu(arms, folder)
    made[BALLOON] = by_balloon(arms, folder)
    if hotplug.available():
        made[HOTPLUG] = by_hotplug(arms, folder)
    else:
        print(f'without "{HOTPLUG}"; to have it: pyvmm guest stock --linux {hotplug.LINUX}')
    if arms.plain:
        made[UNPATCHED] = by_pyvmm(arms, Arm(UNPATCHED, GUEST_MIB, DISK), arms.plain)
    for name, swap in of_guest.items():
        made[name] = by_pyvmm(arms, Arm(name, GUEST_MIB, swap))
    return made


def chosen(made: dict[str, Measure], names: Sequence[str]) -> dict[str, Measure]:
    """The arms asked for; all if none is."""
    unknown = set(names) - set(made)
    if unknown:
        raise SystemExit(f"bench: no arm {', '.join(unknown)}; there are {', '.join(made)}")
    return {name: made[name] for name in names} if names else made


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="of a pass, at most: 5, with --quick 1")
    parser.add_argument("--linux", default="6.12")
    parser.add_argument("--memory", type=int, default=400, metavar="MIB", help="worked on (400)")
    parser.add_argument("--swap", type=int, default=512, metavar="MIB", help="swap disk (512)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one guest (600)")
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="only this one; repeat"
    )


def main(args: argparse.Namespace) -> None:
    from pyvmm.guest.named import find_guest

    args.seconds = args.seconds or (1 if args.quick else 5)
    load = Load(args.memory, seconds=args.seconds)
    arms = Arms(
        find_guest(args.linux), find_plain(args.linux, args.arm), args.swap, load, args.timeout
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = chosen(subjects(arms, folder), args.arm)
        plan = options.plan(args, base_of(made), rounds=7, quick=2)
        found: dict[str, Any] = {}
        stats.interleave(made, plan, lambda samples: found.update(write(args, load, samples)))
    report(args, found)


def find_plain(linux: str, arms: Sequence[str]) -> Any:
    """The guest without patches, if its arm is asked for, or if it is there; else None."""
    from pyvmm.guest.cache import find
    from pyvmm.guest.named import find_guest

    name = f"{linux}-plain"
    if arms:
        return find_guest(name) if UNPATCHED in arms else None
    found = find(name)
    if found is None:
        print(f'without "{UNPATCHED}"; to have it: pyvmm guest build --linux {name}')
    return found


def base_of(made: Collection[str]) -> str:
    """What the others are compared with: stock swap, if it is there."""
    return STOCK if STOCK in made else next(iter(made))


def write(args: argparse.Namespace, load: Load, samples: Samples) -> dict[str, Any]:
    """The record of what has been measured so far."""
    return record.write(
        args.json, "swap", samples, base=base_of(samples), scale=1e6, unit="us",
        judged=verdicts(AIMS, samples), notes=LEGEND,
        linux=args.linux, guest_mib=GUEST_MIB, swap_mib=args.swap, load=load._asdict(),
    )  # fmt: skip


def report(args: argparse.Namespace, found: dict[str, Any]) -> None:
    samples = found["samples"]
    print(stats.table(samples, found["base"], "us", 1e6))
    print(f"\n{LEGEND}")
    print(f"\n{text(verdicts(AIMS, samples))}")
    made = chart.panels(samples, SHOWN)
    for name, bars in made.items():
        print(f"\n{name}\n{logbars.text(bars)}")
    if args.plot:
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        logbars.picture(args.plot, record.title(found), made)
        print(f"\n{args.plot}")
