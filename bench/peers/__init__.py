# SPDX-License-Identifier: Apache-2.0
"""pyvmm and QEMU with the same guest: their command lines, its initramfs with the load in it, what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOADS = Path(__file__).resolve().parents[1] / "loads"
MIB = 256
#: Seconds of one guest.
PATIENCE = 600.0
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1"
ENDING = "reboot=t pyvmm.end=reboot"


def compiled(folder: str, name: str, *flags: str) -> str:
    """The path of a program of bench/loads, NAME.c."""
    program = str(Path(folder) / name)
    source = str(LOADS / f"{name}.c")
    subprocess.run(["gcc", "-O2", *flags, "-o", program, source], check=True)
    return program


def initrd(
    guest: Any,
    folder: str,
    argv: Sequence[str],
    files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
    name: str = "initrd",
) -> str:
    """The guest's initramfs, with the command that it runs and files for it, as one file for every VMM."""
    from pyvmm.guest.overlay import overlay

    path = Path(folder) / name
    path.write_bytes(Path(guest.initramfs).read_bytes() + overlay(argv, files=files))
    return str(path)


def pyvmm(kernel: str, initrd: str, *more: str, mib: int = MIB) -> list[str]:
    """`pyvmm run`."""
    return [
        sys.executable, "-m", "pyvmm", "run", "--console", "serial", "-m", f"{mib}M",
        "-k", kernel, "-i", initrd, *more, "-p", "quiet loglevel=3",
    ]  # fmt: skip


def qemu(guest: Any, initrd: str, *devices: str, mib: int = MIB, cpus: int = 1) -> list[str]:
    """QEMU's microvm with virtio devices."""
    return [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,auto-kernel-cmdline=on", "-cpu", "max",
        "-m", str(mib), "-smp", str(cpus), "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", "stdio", "-no-reboot", *devices, "-global", "virtio-mmio.force-legacy=false",
        "-kernel", guest.vmlinux, "-initrd", initrd, "-append", f"{CMDLINE} {ENDING}",
    ]  # fmt: skip


def swap_disk(path: str | os.PathLike[str], serial: str) -> list[str]:
    """QEMU's options for a disk in a file in memory, with an I/O thread for it."""
    return [
        "-object", "iothread,id=io", "-drive", f"file={path},if=none,id=d,format=raw,aio=threads,cache=writeback",
        "-device", f"virtio-blk-device,drive=d,iothread=io,serial={serial}",
    ]  # fmt: skip


def empty(path: Path, size: int) -> None:
    """Makes the file anew, of so many bytes."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)


def output(command: Sequence[str], timeout: float = PATIENCE) -> str:
    """What a guest prints until it ends."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout, check=False,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")
