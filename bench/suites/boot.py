# SPDX-License-Identifier: Apache-2.0
"""Launch to init and launch to exit: the same kernel and initramfs under pyvmm, QEMU microvm and
kvmtool.

All three are measured the same way, from outside: a process is started, the first word of the
guest's command is awaited on the serial console, then the end of the process. Python's own start-up
counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.peers import vmm
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from pyvmm.guest.named import find_guest

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
    """Return seconds to the guest's first word and to the end of the process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    ready, seen = None, b""
    try:
        while chunk := os.read(process.stdout.fileno(), 65536):
            seen += chunk
            if ready is None and vmm.READY in seen:
                ready = time.perf_counter() - start
        process.wait(vmm.START_PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    total = time.perf_counter() - start
    if ready is None:
        raise RuntimeError(f"{command[0]}: the guest never spoke: {seen[-2000:]!r}")
    return {INIT: ready, EXIT: total}


def commands(guest: Any, initrd: str, lkvm: str | None) -> dict[str, list[str]]:
    """Return how each VMM is started."""
    mib = vmm.MIB
    made = {
        OURS: vmm.pyvmm(guest.vmlinux, initrd, mib=mib),
        OURS_BZ: vmm.pyvmm(guest.kernel, initrd, mib=mib),
        MICROVM: vmm.microvm(guest.vmlinux, initrd, mib),
        MICROVM_BZ: vmm.microvm(guest.kernel, initrd, mib),
    }
    if lkvm:
        made[KVMTOOL] = vmm.kvmtool(lkvm, guest.kernel, initrd, mib, f"bench{os.getpid()}")
    return made


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory() as folder:
        initrd = vmm.initrd(guest, folder, ["echo", vmm.READY.decode()])
        todo = commands(guest, initrd, args.lkvm)
        for command in todo.values():
            launch(command)  # the page cache is warm for everybody
        made = {name: partial(launch, command) for name, command in todo.items()}
        yield Subjects(made, KVMTOOL if args.lkvm else MICROVM, AIMS)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lkvm", default=shutil.which("lkvm"), help="kvmtool's program")


SUITE = Suite(
    "launch to init and to exit, against QEMU microvm and kvmtool",
    subjects,
    unit="s",
    scale=1,
    rounds=9,
    quick=3,
    linux=True,
    options=add_options,
)
