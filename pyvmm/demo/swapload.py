# SPDX-License-Identifier: Apache-2.0
"""A program that wants more memory than its guest has, run in guests that swap in one way or another."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyvmm.guest.cache import Guest
    from pyvmm.vm import VM

PROGRAM = "/bin/swapload"
MARK = "@@"
SERIAL = "pyvmm-swap"
MIB = 1 << 20
#: Swaps to compressed memory of its own.
ZRAM = "zram"
#: Swaps to an ordinary disk in the host's memory.
DISK = "disk"
#: The same, behind compressed memory of its own.
ZSWAP = "zswap"
#: Has memory that somebody keeps a balloon in, and does not swap.
BALLOON = "balloon"
#: May use its pages in the swap disk in one way, and soon in the next.
SWITCHING = "switching"
#: The ways, and how long each: a pass over memory that is there takes some tens of milliseconds.
TURNS = ("direct", "symcall", "off")
TURN_SECONDS = 0.01
#: Free memory, in KiB, at which the balloon is as large as it will be.
INFLATED = 224 << 10

#: Shell: what `$1` and `$2`, an arm's swap and its bytes, ask for; they are shifted away.
START_SWAP = f"""
device=
case $1 in
    {ZRAM}) echo 0 > /proc/sys/vm/page-cluster; echo $2 > /sys/block/zram0/disksize && device=/dev/zram0;;
    none) ;;
    {BALLOON}) until awk '/^MemFree/ {{ exit $2 > {INFLATED} }}' /proc/meminfo; do sleep 0.1; done;;
    *) for disk in /sys/block/vd*; do
        [ "$(cat $disk/serial 2> /dev/null)" = {SERIAL} ] && device=/dev/${{disk##*/}}
    done;;
esac
[ $1 = {ZSWAP} ] && echo 1 > /sys/module/zswap/parameters/enabled
if [ $1 != none ] && [ $1 != {BALLOON} ]; then
    grep -q "^$device " /proc/swaps || {{ mkswap $device > /dev/null && swapon $device; }} ||
        {{ echo "the guest cannot swap by $1"; exit 1; }}
fi
shift 2
"""
SCRIPT = f'{START_SWAP}exec {PROGRAM} "$@"\n'


class Arm(NamedTuple):
    """A guest: its RAM in MiB, and how it swaps.

    `swap` is "none", ZRAM, ZSWAP, DISK, a mode of the swap bypass, or SWITCHING; BALLOON only elsewhere.
    """

    name: str
    memory: int
    swap: str


class Load(NamedTuple):
    """What `swapload` is asked for: MiB, passes, seconds of a pass at most, MiB that it touches for the first time."""

    memory: int = 400
    passes: int = 3
    seconds: float = 5
    touched: int = 16

    def words(self) -> list[str]:
        """Its arguments."""
        numbers = (self.memory, self.passes, self.seconds, self.touched)
        return [
            word
            for letter, n in zip("mpst", numbers, strict=True)
            for word in (f"-{letter}", f"{n:g}")
        ]


def command(arm: Arm, swap_bytes: int, load: Load) -> list[str]:
    """What the guest runs."""
    return ["sh", "-c", SCRIPT, "sh", arm.swap, str(swap_bytes), *load.words()]


def parse(output: str) -> dict[str, Any]:
    """The line of JSON that the program printed.

    Raises HostError, with what there is, if there is none, or if a page did not hold what it should.
    """
    for line in output.splitlines():
        if line.startswith(MARK + "{"):
            figures: dict[str, Any] = json.loads(line.removeprefix(MARK))
            if figures["wrong"]:
                raise HostError(
                    f"{figures['wrong']} pages of the guest did not hold what they should"
                )
            return figures
    raise HostError(f"the guest did not finish:\n{output[-1500:]}")


def add_swap(vm: VM, arm: Arm, swap_bytes: int) -> int | None:
    """Gives the machine what the arm swaps to. A descriptor that comes back is the caller's to close."""
    if arm.swap in ("none", ZRAM):
        return None
    if arm.swap not in (DISK, ZSWAP):
        mode = TURNS[0] if arm.swap == SWITCHING else arm.swap
        vm.add_swap(swap_bytes, mode, serial=SERIAL, policy="always")
        return None
    fd = os.memfd_create(SERIAL, os.MFD_CLOEXEC)
    os.ftruncate(fd, swap_bytes)
    vm.add_disk(fd, serial=SERIAL)
    return fd


class Job(NamedTuple):
    """What a guest is to run: files that it is given, `mib` that the program works on, vCPUs, and a disk to read."""

    argv: Sequence[str]
    files: Mapping[str, bytes | str | os.PathLike[str]]
    mib: int
    cpus: int = 1
    disk: str | os.PathLike[str] = ""
    serial: str = ""


def build(guest: Guest, arm: Arm, job: Job) -> VM:
    """A machine for one run of a program."""
    from pyvmm.guest.named import BASE_CMDLINE, QUIET
    from pyvmm.guest.overlay import overlay
    from pyvmm.vm import VM

    return VM(
        arm.memory * MIB,
        job.cpus,
        kernel=guest.vmlinux or guest.kernel,
        initrd=[guest.initramfs, overlay(job.argv, files=job.files)],
        cmdline=f"{BASE_CMDLINE} {QUIET} console=ttyS0",
    )


def check_bypassed(vm: VM, mib: int) -> None:
    """HostError if a guest that was to bypass its disk moved what it worked on through that disk's queue."""
    if vm.swap is not None and vm.swap.mode != "off":
        moved = vm.swap.stats.bytes_out
        if moved > mib * MIB // 16:
            raise HostError(
                f"the guest did not bypass its swap disk: {moved >> 20} MiB went through the queue"
            )


@contextmanager
def switching(vm: VM) -> Iterator[None]:
    """The modes take turns meanwhile."""
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


def run(guest: Guest, arm: Arm, swap_bytes: int, job: Job, timeout: float) -> str:
    """Runs a job in the arm's guest; what it printed.

    Raises HostError if it did not swap as it was to, and as `VM` does. It may have run out of time.
    """
    with tempfile.TemporaryFile() as output:
        vm = build(guest, arm, job)
        swap = None
        try:
            vm.add_serial(output.fileno())
            swap = add_swap(vm, arm, swap_bytes)
            if job.disk:
                vm.add_disk(job.disk, readonly=True, serial=job.serial)
            if arm.swap == SWITCHING:
                with switching(vm):
                    vm.run(timeout)
            else:
                vm.run(timeout)
                check_bypassed(vm, job.mib)
        finally:
            vm.close()
            if swap is not None:
                os.close(swap)
        output.seek(0)
        return output.read().decode("utf-8", "replace")


def measure(guest: Guest, arm: Arm, swap_bytes: int, load: Load, timeout: float) -> dict[str, Any]:
    """Runs the program in the arm's guest; what it printed.

    Raises HostError if it does not finish within `timeout` seconds, found a wrong page, or did not swap as it was to,
    and as `VM` does.
    """
    from pyvmm.guest.program import program

    argv = command(arm, swap_bytes, load)
    job = Job(argv, {PROGRAM: program("swapload")}, load.memory)
    return parse(run(guest, arm, swap_bytes, job, timeout))
