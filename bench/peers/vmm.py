# SPDX-License-Identifier: Apache-2.0
"""pyvmm, QEMU and kvmtool with the same guest: command lines, its initramfs with the load in it,
what it prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MIB = 256
#: Seconds of one guest.
PATIENCE = 600.0
#: Of its start.
START_PATIENCE = 120
#: The first word of a guest whose start is timed.
READY = b"@@READY@@"
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1"
ENDING = "reboot=t pyvmm.end=reboot"


def initrd(
    guest: Any,
    folder: str,
    argv: Sequence[str],
    files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
    name: str = "initrd",
) -> str:
    """Return the guest's initramfs, with the command that it runs and files for it, as one file for
    every VMM.
    """
    from pyvmm.guest.overlay import overlay

    path = Path(folder) / name
    path.write_bytes(Path(guest.initramfs).read_bytes() + overlay(argv, files=files))
    return str(path)


def pyvmm(kernel: str, initrd: str, *more: str, mib: int = MIB) -> list[str]:
    """Return `pyvmm run`."""
    return [
        sys.executable, "-m", "pyvmm", "run", "--console", "serial", "-m", f"{mib}M",
        "-k", kernel, "-i", initrd, *more, "-p", "quiet loglevel=3",
    ]  # fmt: skip


def qemu(guest: Any, initrd: str, *devices: str, mib: int = MIB, cpus: int = 1) -> list[str]:
    """Return QEMU's microvm with virtio devices."""
    return [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,auto-kernel-cmdline=on", "-cpu", "max",
        "-m", str(mib), "-smp", str(cpus), "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", "stdio", "-no-reboot", *devices, "-global", "virtio-mmio.force-legacy=false",
        "-kernel", guest.vmlinux, "-initrd", initrd, "-append", f"{CMDLINE} {ENDING}",
    ]  # fmt: skip


def microvm(kernel: str, initrd: str, mib: int) -> list[str]:
    """Return QEMU's microvm without a device, for what starts soonest."""
    return [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,pit=on,pic=on", "-cpu", "max",
        "-m", str(mib), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-no-reboot", "-initrd", initrd, "-kernel", kernel, "-append", f"{CMDLINE} {ENDING}",
    ]  # fmt: skip


def kvmtool(program: str, kernel: str, initrd: str, mib: int, name: str) -> list[str]:
    """Return kvmtool, which wants a name that no other guest has."""
    return [
        program, "run", "-k", kernel, "-i", initrd, "-m", str(mib), "-c", "1", "--console", "serial",
        "-p", CMDLINE + " reboot=k pyvmm.end=reboot", "--name", name,
    ]  # fmt: skip


def swap_disk(path: str | os.PathLike[str], serial: str) -> list[str]:
    """Return QEMU's options for a disk in a file in memory, with an I/O thread for it."""
    return [
        "-object", "iothread,id=io", "-drive", f"file={path},if=none,id=d,format=raw,aio=threads,cache=writeback",
        "-device", f"virtio-blk-device,drive=d,iothread=io,serial={serial}",
    ]  # fmt: skip


def empty(path: Path, size: int) -> None:
    """Make the file anew, of so many bytes."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)


def output(command: Sequence[str], timeout: float = PATIENCE) -> str:
    """Return what a guest prints until it ends."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout, check=False,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")
