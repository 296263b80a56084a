# SPDX-License-Identifier: Apache-2.0
"""A program that wants more memory than its guest has, run in guests that swap in one way or
another.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.config import SWAP_SERIAL
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pyvmm.guest.cache import Guest
    from pyvmm.vm import VM

PROGRAM = "/bin/swapload"
MARK = "@@"
MIB = 1 << 20
#: Does not swap.
NONE = "none"
#: Swaps to an ordinary disk in the host's memory.
DISK = "disk"

#: Shell: swaps to the disk of that serial number, unless the guest's init has begun to. A disk without sectors is a
#: tier, whose memory the guest uses in another way.
START_SWAP = f"""
for disk in /sys/block/vd*; do
    [ "$(cat $disk/serial 2> /dev/null)" = {SWAP_SERIAL} ] && device=/dev/${{disk##*/}}
done
[ "$(cat /sys/block/${{device##*/}}/size)" = 0 ] || grep -q "^$device " /proc/swaps ||
    {{ mkswap $device > /dev/null && swapon $device; }} ||
    {{ echo "the guest cannot swap"; exit 1; }}
"""


class Arm(NamedTuple):
    """A guest: its RAM in MiB, and how it swaps: NONE, DISK, or a mode of the swap bypass."""

    name: str
    memory: int
    swap: str


class Load(NamedTuple):
    """The task of `swapload`: MiB, passes, seconds of a pass at most, MiB that it touches for the
    first time.
    """

    memory: int = 400
    passes: int = 3
    seconds: float = 5
    touched: int = 16

    def words(self) -> list[str]:
        """Return its arguments."""
        numbers = (self.memory, self.passes, self.seconds, self.touched)
        return [
            word
            for letter, n in zip("mpst", numbers, strict=True)
            for word in (f"-{letter}", f"{n:g}")
        ]


def command(start: str, load: Load) -> list[str]:
    """Return what the guest runs, after what its shell does to start the swap."""
    return ["sh", "-c", f'{start}exec {PROGRAM} "$@"\n', "sh", *load.words()]


def program() -> Path:
    """Return the path of the program, compiled at its first use; errors as for
    `pyvmm.guest.program.compiled`.
    """
    from pyvmm.guest.program import compiled

    return compiled("swapload", [Path(__file__).with_name("swapload.c")])


def parse(output: str) -> dict[str, Any]:
    """Return the line of JSON that the program printed.

    Raise HostError, with what there is, if there is none, or if a page did not hold what it should.
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
    """Give the machine what the arm swaps to.

    A descriptor that comes back is the caller's to close.
    """
    if arm.swap == NONE:
        return None
    if arm.swap != DISK:
        vm.add_swap(swap_bytes, arm.swap, serial=SWAP_SERIAL, policy="always")
        return None
    fd = os.memfd_create(SWAP_SERIAL, os.MFD_CLOEXEC)
    os.ftruncate(fd, swap_bytes)
    vm.add_disk(fd, serial=SWAP_SERIAL)
    return fd


class Job(NamedTuple):
    """The work of a guest: files that it is given, `mib` that the program works on, and vCPUs."""

    argv: Sequence[str]
    files: Mapping[str, bytes | str | os.PathLike[str]]
    mib: int
    cpus: int = 1


def build(guest: Guest, arm: Arm, job: Job) -> VM:
    """Return a machine for one run of a program."""
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


@contextmanager
def bypassing(vm: VM, job: Job) -> Iterator[None]:
    """Raise HostError after the block, in which the guest runs, if it moved what it worked on
    through the queue of a disk that it was to bypass.
    """
    yield
    if vm.swap is not None and vm.swap.mode != "off":
        moved = vm.swap.stats.bytes_out
        if moved > job.mib * MIB // 16:
            raise HostError(
                f"the guest did not bypass its swap disk: {moved >> 20} MiB went through the queue"
            )


def run(
    guest: Guest,
    arm: Arm,
    swap_bytes: int,
    job: Job,
    timeout: float,
    around: Callable[[VM, Job], AbstractContextManager[None]] = bypassing,
) -> str:
    """Run a job in the arm's guest, within `around`, and return what it printed.

    It may have run out of time.

    Raise HostError if it did not swap as it was to, and as `VM` does.
    """
    with tempfile.TemporaryFile() as output:
        vm = build(guest, arm, job)
        swap = None
        try:
            vm.add_serial(output.fileno())
            swap = add_swap(vm, arm, swap_bytes)
            with around(vm, job):
                vm.run(timeout)
        finally:
            vm.close()
            if swap is not None:
                os.close(swap)
        output.seek(0)
        return output.read().decode("utf-8", "replace")


def measure(guest: Guest, arm: Arm, swap_bytes: int, load: Load, timeout: float) -> dict[str, Any]:
    """Run the program in the arm's guest, and return what it printed.

    Raise HostError if it does not finish within `timeout` seconds, found a wrong page, or did not
    swap as it was to, and as `VM` does.
    """
    argv = command("" if arm.swap == NONE else START_SWAP, load)
    job = Job(argv, {PROGRAM: program()}, load.memory)
    return parse(run(guest, arm, swap_bytes, job, timeout))
