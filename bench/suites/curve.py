# SPDX-License-Identifier: Apache-2.0
"""What an operation costs when memory is a quarter of the RAM, all of it, and up to four times as much."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from bench import options, peers
from bench.report import page, stats
from bench.report.aims import Aim
from bench.suites import swap
from pyvmm.demo import swapload
from pyvmm.demo.swapload import DISK, ZRAM, Arm, Load
from pyvmm.errors import HostError

GUEST_MIB = 128
#: What is worked on, as a multiple of the guest's RAM, of which Linux itself takes a third.
SIZES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
QUICK_SIZES = (0.5, 1.0, 2.0)
SWAP_MIB = int(GUEST_MIB * (max(SIZES) + 0.5))
RAM = swap.RAM
NOTES = f"""\
An operation at random, the last of three passes, in a guest of {GUEST_MIB} MiB (RAM: of {GUEST_MIB + SWAP_MIB} MiB).
A pass has as many operations as there are pages, or ends when its time is over. Nothing where a guest ran out."""


def figure(size: float) -> str:
    return f"{size:g} x RAM"


def one(guest: Any, arm: Arm, sizes: tuple[float, ...], seconds: float) -> dict[str, float]:
    """A guest for each size."""
    found = {}
    for size in sizes:
        load = Load(int(GUEST_MIB * size), seconds=seconds, touched=4)
        try:
            said = swapload.measure(guest, arm, SWAP_MIB << 20, load, peers.PATIENCE)
        except HostError as error:
            print(f"{arm.name}, {figure(size)}: {str(error).splitlines()[-1]}", file=sys.stderr)
            continue
        found[figure(size)] = said["passes"][-1] / 1e9
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="of a pass, at most: 2, with --quick 0.5")
    parser.add_argument("--linux", default="6.12")


def main(args: argparse.Namespace) -> None:
    from pyvmm.guest.named import find_guest

    guest = find_guest(args.linux)
    sizes = QUICK_SIZES if args.quick else SIZES
    seconds = args.seconds or (0.5 if args.quick else 2)
    swaps = {swap.STOCK: DISK, ZRAM: ZRAM, swap.SYMCALL: "symcall", swap.DIRECT: "direct"}
    arms = [Arm(name, GUEST_MIB, how) for name, how in swaps.items()]
    arms.append(Arm(RAM, GUEST_MIB + SWAP_MIB, "none"))
    subjects = {arm.name: partial(one, guest, arm, sizes, seconds) for arm in arms}
    samples = stats.interleave(subjects, options.plan(args, RAM, rounds=3, quick=1))
    page.conclude(
        args, "curve", samples, [Aim(swap.DIRECT, figure(size), RAM, 2.5) for size in sizes],
        base=RAM, scale=1e6, unit="us", notes=NOTES, linux=args.linux,
        x={figure(size): size for size in sizes}, x_label="memory that is worked on, x RAM",
    )  # fmt: skip
