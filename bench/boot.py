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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import chart, options, record, stats
from bench.aims import Aim, text, verdicts

READY = b"@@READY@@"
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1"
SECONDS = 120
NAME = f"bench{os.getpid()}"

OURS, OURS_BZ = "pyvmm vmlinux", "pyvmm bzImage"
MICROVM, MICROVM_BZ = "QEMU microvm vmlinux", "QEMU microvm bzImage"
KVMTOOL = "kvmtool bzImage"
INIT, EXIT = "launch to init", "launch to exit"
AIMS = (
    Aim(OURS, INIT, MICROVM, 1),
    Aim(OURS, INIT, KVMTOOL, 1),
    Aim(OURS, EXIT, MICROVM, 1),
    Aim(OURS, EXIT, KVMTOOL, 1),
)


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
    return {INIT: ready, EXIT: total}


def initrd_with_command(guest: Any, folder: str, argv: Sequence[str]) -> str:
    """The guest's initramfs, with the command that it runs, as one file for every VMM."""
    from pyvmm.guest.overlay import overlay

    path = Path(folder) / "initrd"
    extra = overlay(argv)
    path.write_bytes(Path(guest.initramfs).read_bytes() + extra)
    return str(path)


def commands(guest: Any, initrd: str, lkvm: str | None, mib: int = 256) -> dict[str, list[str]]:
    """How each VMM is started with a guest of so much memory."""
    pyvmm = [
        sys.executable, "-m", "pyvmm", "run", "--console", "serial", "-m", f"{mib}M", "-i", initrd,
    ]  # fmt: skip
    params = ["-p", "quiet loglevel=3"]
    microvm = [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,pit=on,pic=on", "-cpu", "max",
        "-m", str(mib), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-no-reboot", "-initrd", initrd,
    ]  # fmt: skip
    ending = CMDLINE + " reboot=t pyvmm.end=reboot"
    result = {
        OURS: [*pyvmm, "-k", guest.vmlinux, *params],
        OURS_BZ: [*pyvmm, "-k", guest.kernel, *params],
        MICROVM: [*microvm, "-kernel", guest.vmlinux, "-append", ending],
        MICROVM_BZ: [*microvm, "-kernel", guest.kernel, "-append", ending],
    }
    if lkvm:
        result[KVMTOOL] = [
            lkvm, "run", "-k", guest.kernel, "-i", initrd, "-m", str(mib), "-c", "1", "--console", "serial",
            "-p", CMDLINE + " reboot=k pyvmm.end=reboot", "--name", NAME,
        ]  # fmt: skip
    return result


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--linux", default="6.12")
    parser.add_argument("--lkvm", default=shutil.which("lkvm"), help="kvmtool's program")


def main(args: argparse.Namespace) -> None:
    from pyvmm.cli.plan import find_guest

    options.check_plot(args)
    guest = find_guest(args.linux)
    base = KVMTOOL if args.lkvm else MICROVM
    with tempfile.TemporaryDirectory() as folder:
        initrd = initrd_with_command(guest, folder, ["echo", READY.decode()])
        todo = commands(guest, initrd, args.lkvm)
        for command in todo.values():
            launch(command)  # the page cache is warm for everybody
        samples = stats.interleave(
            {name: partial(launch, command) for name, command in todo.items()},
            options.plan(args, base, rounds=9, quick=3),
        )
    judged = verdicts(AIMS, samples)
    print(stats.table(samples, base, "s", 1))
    print(text(judged))
    chart.plot(args.plot, "boot", samples, base, "s", 1)
    record.write(
        args.json, "boot", samples,
        base=base, scale=1, unit="s", judged=judged, linux=args.linux,
    )  # fmt: skip
