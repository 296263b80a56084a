# SPDX-License-Identifier: Apache-2.0
"""Launch to init and launch to exit: the same kernel and initramfs under pyvmm, QEMU microvm and kvmtool.

All three are measured the same way, from outside: a process is started, the first word of the guest's command is
awaited on the serial console, then the end of the process. Python's own start-up counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import stats

READY = b"@@READY@@"
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1"
SECONDS = 120


def launch(command: list[str]) -> dict[str, float]:
    """Seconds to the guest's first word and to the end of the process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    ready, seen = None, b""
    try:
        while chunk := os.read(process.stdout.fileno(), 65536):
            seen += chunk
            if ready is None and READY in seen:
                ready = time.perf_counter() - start
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    total = time.perf_counter() - start
    if ready is None:
        raise RuntimeError(f"{command[0]}: the guest never spoke: {seen[-2000:]!r}")
    return {"launch to init": ready, "launch to exit": total}


def initrd_with_command(guest: Any, folder: str) -> str:
    """The guest's initramfs, with the command that says the word, as one file for every VMM."""
    from pyvmm.guest.overlay import overlay

    path = Path(folder) / "initrd"
    extra = overlay(["echo", READY.decode()])
    path.write_bytes(Path(guest.initramfs).read_bytes() + extra)
    return str(path)


def commands(guest: Any, initrd: str, lkvm: str | None) -> dict[str, list[str]]:
    pyvmm = [
        sys.executable,
        "-m",
        "pyvmm",
        "run",
        "--console",
        "serial",
        "-m",
        "256M",
        "-i",
        initrd,
    ]
    params = ["-p", "quiet loglevel=3"]
    microvm = [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,pit=on,pic=on", "-cpu", "max",
        "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-no-reboot", "-initrd", initrd,
    ]  # fmt: skip
    ending = CMDLINE + " reboot=t pyvmm.end=reboot"
    result = {
        "pyvmm vmlinux": [*pyvmm, "-k", guest.vmlinux, *params],
        "pyvmm bzImage": [*pyvmm, "-k", guest.kernel, *params],
        "QEMU microvm vmlinux": [*microvm, "-kernel", guest.vmlinux, "-append", ending],
        "QEMU microvm bzImage": [*microvm, "-kernel", guest.kernel, "-append", ending],
    }
    if lkvm:
        result["kvmtool bzImage"] = [
            lkvm, "run", "-k", guest.kernel, "-i", initrd, "-m", "256", "-c", "1", "--console", "serial",
            "-p", CMDLINE + " reboot=k pyvmm.end=reboot", "--name", f"bench{os.getpid()}",
        ]  # fmt: skip
    return result


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--linux", default="6.12")
    parser.add_argument("--lkvm", default=shutil.which("lkvm"), help="kvmtool's program")


def main(args: argparse.Namespace) -> None:
    from pyvmm.cli.plan import find_guest

    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory() as folder:
        initrd = initrd_with_command(guest, folder)
        todo = commands(guest, initrd, args.lkvm)
        for command in todo.values():
            launch(command)  # the page cache is warm for everybody
        samples = stats.interleave(
            {name: (lambda c=command: launch(c)) for name, command in todo.items()}, args.rounds
        )
    base = "kvmtool bzImage" if args.lkvm else "QEMU microvm vmlinux"
    print(stats.table(samples, base, "s", 1))
    stats.write(args.json or "bench/out/boot.json", "boot", samples)
