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
import tempfile
import time
from functools import partial
from typing import Any

from bench import options, peers
from bench.report import page, stats
from bench.report.aims import Aim

READY = b"@@READY@@"
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


def commands(
    guest: Any, initrd: str, lkvm: str | None, mib: int = peers.MIB
) -> dict[str, list[str]]:
    """How each VMM is started with a guest of so much memory."""
    microvm = [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,pit=on,pic=on", "-cpu", "max",
        "-m", str(mib), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-no-reboot", "-initrd", initrd,
    ]  # fmt: skip
    ending = f"{peers.CMDLINE} {peers.ENDING}"
    result = {
        OURS: peers.pyvmm(guest.vmlinux, initrd, mib=mib),
        OURS_BZ: peers.pyvmm(guest.kernel, initrd, mib=mib),
        MICROVM: [*microvm, "-kernel", guest.vmlinux, "-append", ending],
        MICROVM_BZ: [*microvm, "-kernel", guest.kernel, "-append", ending],
    }
    if lkvm:
        result[KVMTOOL] = [
            lkvm, "run", "-k", guest.kernel, "-i", initrd, "-m", str(mib), "-c", "1", "--console", "serial",
            "-p", peers.CMDLINE + " reboot=k pyvmm.end=reboot", "--name", NAME,
        ]  # fmt: skip
    return result


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--linux", default="6.12")
    parser.add_argument("--lkvm", default=shutil.which("lkvm"), help="kvmtool's program")


def main(args: argparse.Namespace) -> None:
    from pyvmm.guest.named import find_guest

    guest = find_guest(args.linux)
    base = KVMTOOL if args.lkvm else MICROVM
    with tempfile.TemporaryDirectory() as folder:
        initrd = peers.initrd(guest, folder, ["echo", READY.decode()])
        todo = commands(guest, initrd, args.lkvm)
        for command in todo.values():
            launch(command)  # the page cache is warm for everybody
        samples = stats.interleave(
            {name: partial(launch, command) for name, command in todo.items()},
            options.plan(args, base, rounds=9, quick=3),
        )
    page.conclude(args, "boot", samples, AIMS, base=base, scale=1, unit="s", linux=args.linux)
