# SPDX-License-Identifier: Apache-2.0
"""virtio-blk against QEMU's on an I/O thread: the same kernel, image and load, in one run."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import options, peers
from bench.report import page, stats
from bench.report.aims import Aim

IMAGE_SIZE = 256 << 20
PROGRAM = "/bin/diskload"
QEMU, OURS = "QEMU", "pyvmm"
NOTES = "Time per MiB, so that less is better. QEMU has an I/O thread, and aio=threads."


def parse(output: str) -> dict[str, float]:
    """Seconds per MiB of each load, from the lines the guest printed."""
    figures = {}
    for line in output.splitlines():
        if line.startswith("@@") and not line.startswith("@@warm-up"):
            name, seconds, size = line[2:].split()
            figures[name] = float(seconds) / (int(size) / 2**20)
    if len(figures) < 5:
        raise RuntimeError(f"the load did not finish: {output[-2000:]}")
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=int, default=1, help="multiplies the work")
    parser.add_argument("--linux", default="6.12")


def main(args: argparse.Namespace) -> None:
    from pyvmm.guest.named import find_guest

    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image = Path(folder) / "disk"
        image.write_bytes(bytes(IMAGE_SIZE))
        load = peers.compiled(folder, "diskload", "-static", "-pthread")
        argv = [PROGRAM, "/dev/vda", str(args.scale)]
        initrd = peers.initrd(guest, folder, argv, {PROGRAM: load})
        ours = peers.pyvmm(guest.vmlinux, initrd, "-d", str(image))
        qemu = peers.qemu(
            guest, initrd, "-object", "iothread,id=io",
            "-drive", f"file={image},if=none,id=d,format=raw,aio=threads",
            "-device", "virtio-blk-device,drive=d,iothread=io",
        )  # fmt: skip
        samples = stats.interleave(
            {QEMU: lambda: parse(peers.output(qemu)), OURS: lambda: parse(peers.output(ours))},
            options.plan(args, QEMU, rounds=7, quick=2),
        )
    aims = [Aim(OURS, figure, QEMU, 1) for figure in samples[QEMU]]
    page.conclude(
        args, "disk", samples, aims, base=QEMU, scale=1e3, unit="ms", notes=NOTES,
        linux=args.linux, work=args.scale,
    )  # fmt: skip
