# SPDX-License-Identifier: Apache-2.0
"""A program that wants more than its guest has: in RAM, with stock swap, zram, and SwapBypass, side by side.

Each round starts a guest for every arm, which fills its memory, works on it at random and then in order, and measures
first touches. What is reported are times, so that less is better.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import chart, stats
from bench.stats import Samples
from bench.symcall import revision
from pyvmm.cli import logbars, swapload
from pyvmm.cli.swapload import DISK, ZRAM, Arm, Load

SCHEMA = 1
MIB = 1 << 20
GUEST_MIB = 256
RAM = "RAM"
QEMU = "stock, QEMU"
STOCK = "stock, pyvmm"
UNPATCHED = "unpatched kernel"
OFF = "bypass off"
SYMCALL = "symcall"
DIRECT = "direct"
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1 reboot=t pyvmm.end=reboot"

LAST = "at random, last pass"
SEQUENTIAL = "in order"
FRESH = "first touch, fresh"
SWAPPED = "first touch, swapped"
OUT = "swap-out, a page"

#: Of single operations: what is shown, and the program's word.
PARTS = {"p50": "p50", "p99": "p99", "p99.9": "p999"}

LEGEND = f"""\
The guest has {GUEST_MIB} MiB, in "{RAM}" all that is wanted. stock: an ordinary virtio-blk disk in the host's memory.
unpatched kernel: the same for a guest whose kernel lacks the patches.
bypass off: the disk that can be bypassed, with that switched off. zram: compressed in the guest's own RAM.
An operation checks a page and writes to it; a pass has as many as there are pages, or ends when its time is over: the
slow ones have not been everywhere by then. first touch: of memory that has room in RAM, so that nothing
has to leave for it. swap-out: until the last write of MADV_PAGEOUT is done."""

Measure = Callable[[], dict[str, float]]


class Arms(NamedTuple):
    """What the arms have in common; `plain` is the guest without patches."""

    guest: Any
    plain: Any
    swap_mib: int
    load: Load
    timeout: float


class Aim(NamedTuple):
    """`figure` of one arm is to be at most `limit` times `base_figure` of the base."""

    arm: str
    figure: str
    base: str
    base_figure: str
    limit: float


AIMS = (
    Aim(DIRECT, LAST, RAM, LAST, 1.1),
    Aim(DIRECT, SWAPPED, DIRECT, FRESH, 3),
    Aim(DIRECT, LAST, STOCK, LAST, 1 / 100),
    Aim(DIRECT, LAST, QEMU, LAST, 1 / 100),
    Aim(DIRECT, LAST, ZRAM, LAST, 1 / 10),
    Aim(SYMCALL, LAST, STOCK, LAST, 1 / 10),
    Aim(SYMCALL, SWAPPED, STOCK, SWAPPED, 1 / 10),
    Aim(DIRECT, OUT, STOCK, OUT, 1 / 2),
    Aim(OFF, LAST, UNPATCHED, LAST, 1.01),
    Aim(OFF, SWAPPED, UNPATCHED, SWAPPED, 1.01),
    Aim(OFF, OUT, UNPATCHED, OUT, 1.01),
)


class Verdict(NamedTuple):
    """An aim and what was measured: the ratio of medians and its 95% interval."""

    aim: Aim
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        aim = self.aim
        met = "met" if self.ratio <= aim.limit else "missed"
        if self.low <= aim.limit < self.high:
            met += " within the spread"
        other = "" if aim.figure == aim.base_figure else f", {aim.base_figure}"
        text = f"{aim.figure}: {aim.arm} / {aim.base}{other}"
        return f"  {text:62} {self.ratio:9.4g} ({self.low:.4g} to {self.high:.4g}), aim {aim.limit:.4g}: {met}"


def verdicts(samples: Samples) -> list[Verdict]:
    """Each aim whose two figures were measured."""
    made = []
    for aim in AIMS:
        mine = samples.get(aim.arm, {}).get(aim.figure)
        base = samples.get(aim.base, {}).get(aim.base_figure)
        if mine and base:
            made.append(Verdict(aim, *stats.ratio(mine, base)))
    return made


def figures(said: dict[str, Any]) -> dict[str, float]:
    """Seconds, by the names that are shown, from what the program printed."""
    passes = {f"pass {n + 1}": value for n, value in enumerate(said["passes"])}
    found = {
        **passes,
        LAST: said["passes"][-1],
        SEQUENTIAL: said["sequential"],
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


def qemu_command(arms: Arms, folder: str, swap: str) -> list[str]:
    """The same kernel and program under QEMU, with an I/O thread for the disk."""
    from pyvmm.guest.overlay import overlay
    from pyvmm.guest.program import program

    argv = swapload.command(Arm(QEMU, GUEST_MIB, DISK), arms.swap_mib * MIB, arms.load)
    initrd = Path(folder) / "initrd"
    extra = overlay(argv, files={swapload.PROGRAM: program("swapload")})
    initrd.write_bytes(Path(arms.guest.initramfs).read_bytes() + extra)
    return [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,auto-kernel-cmdline=on", "-cpu", "max",
        "-m", str(GUEST_MIB), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-object", "iothread,id=io", "-drive", f"file={swap},if=none,id=d,format=raw,aio=threads,cache=writeback",
        "-device", f"virtio-blk-device,drive=d,iothread=io,serial={swapload.SERIAL}",
        "-global", "virtio-mmio.force-legacy=false",
        "-kernel", arms.guest.vmlinux, "-initrd", str(initrd), "-append", CMDLINE,
    ]  # fmt: skip


def by_qemu(arms: Arms, folder: str) -> Measure:
    """One run under QEMU, with a fresh file in memory."""
    swap = Path(folder) / "swap"
    command = qemu_command(arms, folder, str(swap))

    def run() -> dict[str, float]:
        swap.unlink(missing_ok=True)
        with swap.open("wb") as file:
            os.truncate(file.fileno(), arms.swap_mib * MIB)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=arms.timeout, check=False,
        )  # fmt: skip
        return figures(swapload.parse(done.stdout.decode("utf-8", "replace")))

    return run


def subjects(arms: Arms, folder: str) -> dict[str, Measure]:
    """All arms, by the names that are shown."""
    of_guest = {STOCK: DISK, OFF: "off", ZRAM: ZRAM, SYMCALL: "symcall", DIRECT: "direct"}
    made = {RAM: by_pyvmm(arms, Arm(RAM, GUEST_MIB + arms.swap_mib, "none"))}
    made[QEMU] = by_qemu(arms, folder)
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
    parser.add_argument("--rounds", type=int, help="5, with --quick 2")
    parser.add_argument("--seconds", type=float, help="of a pass, at most: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of shorter passes")
    parser.add_argument("--linux", default="6.12")
    parser.add_argument("--memory", type=int, default=400, metavar="MIB", help="worked on (400)")
    parser.add_argument("--swap", type=int, default=512, metavar="MIB", help="swap disk (512)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one guest (600)")
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="only this one; repeat"
    )
    parser.add_argument("--plot", metavar="FILE", help="a picture, as PNG; wants matplotlib")


def main(args: argparse.Namespace) -> None:
    from pyvmm.cli.plan import find_guest

    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (1 if args.quick else 5)
    if args.plot and not logbars.available():
        raise SystemExit("bench: --plot wants matplotlib: pip install 'pyvmm[bench]'")
    load = Load(args.memory, seconds=args.seconds)
    arms = Arms(
        find_guest(args.linux), find_guest(f"{args.linux}-plain"), args.swap, load, args.timeout
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = chosen(subjects(arms, folder), args.arm)
        samples = stats.interleave(made, args.rounds, lambda found: write(args, load, found))
    judged = verdicts(samples)
    report(args, samples, judged)


def write(args: argparse.Namespace, load: Load, samples: Samples) -> None:
    """The JSON, with what has been measured so far."""
    judged = [
        {**v.aim._asdict(), "ratio": v.ratio, "low": v.low, "high": v.high}
        for v in verdicts(samples)
    ]
    stats.write(
        args.json or "bench/out/swap.json", "swap", samples,
        schema=SCHEMA, revision=revision(), linux=args.linux, guest_mib=GUEST_MIB, swap_mib=args.swap,
        load=load._asdict(), aims=judged,
    )  # fmt: skip


def panels(samples: Samples) -> dict[str, list[logbars.Bar]]:
    """A chart for each figure that stands for a whole: median, and quartiles as spread."""
    made: dict[str, list[logbars.Bar]] = {}
    for group in (LAST, SEQUENTIAL, FRESH, SWAPPED, OUT):
        having = {name: {group: found[group]} for name, found in samples.items() if group in found}
        for bar in chart.bars(having, next(iter(having))) if having else ():
            made.setdefault(group, []).append(logbars.Bar(bar.name, bar.middle, bar.low, bar.high))
    return made


def report(args: argparse.Namespace, samples: Samples, judged: list[Verdict]) -> None:
    base = STOCK if STOCK in samples else next(iter(samples))
    print(stats.table(samples, base, "us", 1e6))
    print(f"\n{LEGEND}")
    print("\naims, as ratios of medians with their 95% interval")
    print("\n".join(map(str, judged)))
    made = panels(samples)
    for name, bars in made.items():
        print(f"\n{name}\n{logbars.text(bars)}")
    if args.plot:
        machine = stats.environment()
        title = (
            f"swap, {revision()}, {machine['kvm']} on {machine['cpu']}, Linux {machine['kernel']}"
        )
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        logbars.picture(args.plot, title, made)
        print(f"\n{args.plot}")
