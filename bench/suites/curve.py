# SPDX-License-Identifier: Apache-2.0
"""The cost of an operation when memory is a quarter of the RAM, all of it, and up to four times as
much.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.peers import arms, vmm
from bench.peers.arms import Arm
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from pyvmm.demo import swapload
from pyvmm.demo.swapload import Load
from pyvmm.errors import HostError
from pyvmm.guest.named import find_guest

GUEST_MIB = 128
#: The memory that is worked on, as a multiple of the guest's RAM, of which Linux itself takes a third.
SIZES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
QUICK_SIZES = (0.5, 1.0, 2.0)
SWAP_MIB = int(GUEST_MIB * (max(SIZES) + 0.5))
NOTES = f"""\
An operation at random, the last of three passes, in a guest of {GUEST_MIB} MiB (RAM: of {GUEST_MIB + SWAP_MIB} MiB).
A pass has as many operations as there are pages, or ends when its time is over. Nothing where a guest ran out."""


def figure(size: float) -> str:
    return f"{size:g} x RAM"


def one(guest: Any, arm: Arm, sizes: tuple[float, ...], seconds: float) -> dict[str, float]:
    """Return a guest for each size."""
    found = {}
    for size in sizes:
        load = Load(int(GUEST_MIB * size), seconds=seconds, touched=4)
        try:
            said = arm.measure(guest, load, vmm.PATIENCE)
        except HostError as error:
            print(f"{arm.name}, {figure(size)}: {str(error).splitlines()[-1]}", file=sys.stderr)
            continue
        found[figure(size)] = said["passes"][-1] / 1e9
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="of a pass, at most: 2, with --quick 0.5")


def prepare() -> None:
    swapload.program()


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    guest = find_guest(args.linux)
    sizes = QUICK_SIZES if args.quick else SIZES
    seconds = args.seconds or (0.5 if args.quick else 2)
    names = (arms.STOCK, arms.ZRAM, arms.SYMCALL, arms.DIRECT)
    every = [Arm(name, GUEST_MIB, SWAP_MIB) for name in names]
    every.append(Arm(arms.RAM, GUEST_MIB + SWAP_MIB, 0))
    yield Subjects(
        {arm.name: partial(one, guest, arm, sizes, seconds) for arm in every},
        arms.RAM,
        [Aim(arms.DIRECT, figure(size), arms.RAM, 2.5) for size in sizes],
        NOTES,
        {"x": {figure(size): size for size in sizes}, "x_label": "memory that is worked on, x RAM"},
    )


SUITE = Suite(
    "the same for memory from a quarter of the RAM to four times it",
    subjects,
    unit="us",
    scale=1e6,
    rounds=3,
    quick=1,
    linux=True,
    options=add_options,
    prepare=prepare,
)
