# SPDX-License-Identifier: Apache-2.0
"""virtio-blk against QEMU's on an I/O thread: the same kernel, image and load, in one run."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.loads import build
from bench.peers import vmm
from bench.report.aims import Aim
from bench.rounds import Measure
from bench.suite import Subjects, Suite
from pyvmm.guest.named import find_guest

IMAGE_SIZE = 256 << 20
PROGRAM = "/bin/diskload"
QEMU, OURS = "QEMU", "pyvmm"
#: The program's names of its loads.
FIGURES = (
    "sequential-read",
    "sequential-write",
    "random-read-4k",
    "random-write-4k",
    "random-read-4k-x4",
)
AIMS = [Aim(OURS, figure, QEMU, 1) for figure in FIGURES]
NOTES = "Time per MiB, so that less is better. QEMU has an I/O thread, and aio=threads."


def parse(output: str) -> dict[str, float]:
    """Return seconds per MiB of each load, from the lines the guest printed."""
    figures = {}
    for line in output.splitlines():
        if line.startswith("@@") and not line.startswith("@@warm-up"):
            name, seconds, size = line[2:].split()
            figures[name] = float(seconds) / (int(size) / 2**20)
    if len(figures) < len(FIGURES):
        raise RuntimeError(f"the load did not finish: {output[-2000:]}")
    return figures


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image = Path(folder) / "disk"
        image.write_bytes(bytes(IMAGE_SIZE))
        load = build.compiled(folder, "diskload", "-static", "-pthread")
        argv = [PROGRAM, "/dev/vda", str(args.scale)]
        initrd = vmm.initrd(guest, folder, argv, {PROGRAM: load})
        ours = vmm.pyvmm(guest.vmlinux, initrd, "-d", str(image))
        qemu = vmm.qemu(
            guest, initrd, "-object", "iothread,id=io",
            "-drive", f"file={image},if=none,id=d,format=raw,aio=threads",
            "-device", "virtio-blk-device,drive=d,iothread=io",
        )  # fmt: skip
        made: dict[str, Measure] = {
            QEMU: lambda: parse(vmm.output(qemu)),
            OURS: lambda: parse(vmm.output(ours)),
        }
        yield Subjects(made, QEMU, AIMS, NOTES, {"work": args.scale})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=int, default=1, help="multiplies the work")


SUITE = Suite(
    "virtio-blk against QEMU with an I/O thread",
    subjects,
    unit="ms",
    scale=1e3,
    rounds=7,
    quick=2,
    linux=True,
    options=add_options,
)
