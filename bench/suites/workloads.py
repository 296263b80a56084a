# SPDX-License-Identifier: Apache-2.0
"""Programs that people know, in guests that are short of memory: GUPS, STREAM, a sort, Redis,
SQLite, stress-ng.

Each round starts a guest for every arm and every program. What is reported are times, so that less
is better.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import rounds
from bench.loads import programs
from bench.loads.programs import MEMBENCH, PACKAGES, PROGRAMS, UPDATE, Program, Size, ran_out
from bench.peers import arms, vmm
from bench.peers.arms import Arm
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from pyvmm.config import SWAP_SERIAL
from pyvmm.debian import distro
from pyvmm.demo import swapload
from pyvmm.demo.swapload import Job
from pyvmm.errors import HostError
from pyvmm.guest.named import find_guest
from pyvmm.vm import VM

MIB = 1 << 20
RAM_MIB, FACTOR = 128, 1.6
QUICK_RAM_MIB, QUICK_FACTOR = 96, 1.2
#: The swap disk has so many times the RAM beyond what is worked on: programs take some for themselves.
SPARE = 0.5
AIMS = (Aim(arms.DIRECT, UPDATE, arms.STOCK, 1 / 10),)


class Setting(NamedTuple):
    """The settings that the arms have in common. `disk` has Debian's programs."""

    guest: Any
    ram_mib: int
    swap_mib: int
    cpus: int
    size: Size
    programs: Mapping[str, Program]
    disk: str
    timeout: float

    def job(self, arm: Arm, chosen: Program) -> Job:
        """Return what a guest of the arm is to run."""
        files: dict[str, bytes | str | os.PathLike[str]] = {**chosen.files}
        if not chosen.debian:
            files[MEMBENCH] = programs.membench_path()
        argv = chosen.command(arm.start(), self.size)
        return Job(argv, files, self.size.mib, self.cpus)

    def disk_of(self, chosen: Program) -> str:
        """Return the disk that its guest reads; "" if none."""
        return self.disk if chosen.debian else ""


def prepare() -> None:
    """Fetch and compile what guests run, into the cache. In the lab there is no network for it."""
    programs.membench_path()
    distro.disk(PACKAGES)


def by_pyvmm(setting: Setting, arm: Arm, chosen: Program) -> str:
    """Return what the program says in a guest of pyvmm."""

    @contextmanager
    def around(vm: VM, job: Job) -> Iterator[None]:
        if disk := setting.disk_of(chosen):
            vm.add_disk(disk, readonly=True, serial=distro.SERIAL)
        with swapload.bypassing(vm, job):
            yield

    return arm.run(setting.guest, setting.job(arm, chosen), setting.timeout, around)


def by_qemu(setting: Setting, arm: Arm, chosen: Program) -> str:
    """Return the same under QEMU, with an ordinary swap disk in memory."""
    job = setting.job(arm, chosen)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        swap_file = Path(folder) / "swap"
        vmm.empty(swap_file, setting.swap_mib * MIB)
        devices = vmm.swap_disk(swap_file, SWAP_SERIAL)
        if disk := setting.disk_of(chosen):
            devices += [
                "-drive", f"file={disk},if=none,id=programs,format=raw,readonly=on",
                "-device", f"virtio-blk-device,drive=programs,serial={distro.SERIAL}",
            ]  # fmt: skip
        initrd = vmm.initrd(setting.guest, folder, job.argv, job.files)
        command = vmm.qemu(setting.guest, initrd, *devices, mib=arm.memory, cpus=job.cpus)
        return vmm.output(command, setting.timeout)


def one(setting: Setting, arm: Arm) -> dict[str, float]:
    """Return a guest for each program; no figures of one that ran out of memory, as zram does if
    nothing can be compressed.

    Raise HostError, naming the program, where one fails or finds something wrong.
    """
    run = by_qemu if arm.name == arms.QEMU else by_pyvmm
    found: dict[str, float] = {}
    for name, chosen in setting.programs.items():
        rounds.progress(f"{arm.name}: {name}")
        try:
            said = run(setting, arm, chosen)
            if ran_out(said):
                print(f"{name}, {arm.name}: the guest ran out of memory", file=sys.stderr)
                continue
            found |= chosen.figures(said, setting.size)
        except HostError as error:
            raise HostError(f"{name}, {arm.name}: {error}") from error
    return found


def every_arm(ram_mib: int, swap_mib: int) -> list[Arm]:
    """Return all of them, by the names that are shown."""
    names = (arms.STOCK, arms.QEMU, arms.ZRAM, arms.OFF, arms.SYMCALL, arms.DIRECT)
    return [
        Arm(arms.RAM, ram_mib + swap_mib, 0),
        *(Arm(name, ram_mib, swap_mib) for name in names),
    ]


def notes(setting: Setting) -> str:
    """Return what the figures are of."""
    size = setting.size
    return f"""\
{setting.cpus} vCPU and {setting.ram_mib} MiB, in "{arms.RAM}" all that is wanted; {size.mib} MiB are worked on.
Processes: {size.processes}, whose rates add up. Each program has a guest of its own, and checks what it worked on.
stock: an ordinary virtio-blk disk in the host's memory. bypass off: the disk that can be bypassed, with that
switched off. zram: compressed in the guest's own RAM. Nothing where a guest ran out of memory."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--ram", type=int, metavar="MIB", help="of the guest: 128, with --quick 96")
    add("--factor", type=float, help="worked on, times the RAM: 1.6, with --quick 1.2")
    add("--cpus", type=int, default=1, help="vCPUs (1)")
    add("--processes", type=int, default=1, help="at once, each with its share (1)")
    add("--seconds", type=float, help="of GUPS, at most: 5, with --quick 1")
    add("--requests", type=int, help="of Redis and SQLite, a process: 10000, with --quick 1000")
    add("--program", action="append", default=[], metavar="NAME", help="only this one; repeat")
    add("--arm", action="append", default=[], metavar="NAME", help="only this one; repeat")
    add("--timeout", type=float, default=900, help="seconds of one guest (900)")


def chosen_programs(names: list[str]) -> dict[str, Program]:
    """Return those asked for; all if none is."""
    unknown = set(names) - set(PROGRAMS)
    if unknown:
        raise SystemExit(f"bench: no program {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    return {name: made for name, made in PROGRAMS.items() if name in names or not names}


def setting_of(args: argparse.Namespace) -> Setting:
    """Return what the options say."""
    if min(args.processes, args.cpus) < 1:
        raise SystemExit("bench: --processes and --cpus are at least 1")
    ram = args.ram or (QUICK_RAM_MIB if args.quick else RAM_MIB)
    factor = args.factor or (QUICK_FACTOR if args.quick else FACTOR)
    size = Size(
        mib=int(ram * factor),
        processes=args.processes,
        seconds=args.seconds or (1 if args.quick else 5),
        passes=1 if args.quick else 2,
        requests=args.requests or (1000 if args.quick else 10000),
    )
    programs = chosen_programs(args.program)
    disk = str(distro.disk(PACKAGES)) if any(each.debian for each in programs.values()) else ""
    swap_mib = -(-int(ram * (factor + SPARE)) // 2) * 2
    guest = find_guest(args.linux)
    return Setting(guest, ram, swap_mib, args.cpus, size, programs, disk, args.timeout)


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    setting = setting_of(args)
    every = every_arm(setting.ram_mib, setting.swap_mib)
    made = arms.chosen({arm.name: partial(one, setting, arm) for arm in every}, args.arm)
    about = {
        "ram_mib": setting.ram_mib, "swap_mib": setting.swap_mib, "cpus": setting.cpus,
        "size": setting.size._asdict(),
    }  # fmt: skip
    yield Subjects(made, arms.base_of(made), AIMS, notes(setting), about)


SUITE = Suite(
    "GUPS, STREAM, a sort, Redis, SQLite and stress-ng short of memory",
    subjects,
    unit="ns",
    scale=1e9,
    rounds=3,
    quick=1,
    linux=True,
    options=add_options,
    prepare=prepare,
)
