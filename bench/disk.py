# SPDX-License-Identifier: Apache-2.0
"""virtio-blk against QEMU's on an I/O thread: the same kernel, image and load, in one run."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import chart, options, record, stats
from bench.aims import Aim, text, verdicts

HERE = Path(__file__).resolve().parent
IMAGE_SIZE = 256 << 20
PROGRAM = "/bin/diskload"
QEMU, OURS = "QEMU", "pyvmm"
NOTES = "Time per MiB, so that less is better. QEMU has an I/O thread, and aio=threads."
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1"


def build_load(folder: str) -> str:
    program = str(Path(folder) / "diskload")
    source = str(HERE / "diskload.c")
    subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", program, source], check=True)
    return program


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


def run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=600, check=False,
    )  # fmt: skip
    return parse(done.stdout.decode("utf-8", "replace"))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=int, default=1, help="multiplies the work")
    parser.add_argument("--linux", default="6.12")


def main(args: argparse.Namespace) -> None:
    from pyvmm.cli.plan import find_guest
    from pyvmm.guest.overlay import overlay

    options.check_plot(args)
    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image, initrd = Path(folder) / "disk", Path(folder) / "initrd"
        image.write_bytes(bytes(IMAGE_SIZE))
        extra = overlay([PROGRAM, "/dev/vda", str(args.scale)], files={PROGRAM: build_load(folder)})
        initrd.write_bytes(Path(guest.initramfs).read_bytes() + extra)
        ours = [
            sys.executable, "-m", "pyvmm", "run", "--console", "serial", "-m", "256M",
            "-k", guest.vmlinux, "-i", str(initrd), "-d", str(image), "-p", "quiet loglevel=3",
        ]  # fmt: skip
        qemu = [
            "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,auto-kernel-cmdline=on", "-cpu", "max",
            "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-object", "iothread,id=io", "-drive", f"file={image},if=none,id=d,format=raw,aio=threads",
            "-device", "virtio-blk-device,drive=d,iothread=io", "-kernel", guest.vmlinux,
            "-initrd", str(initrd), "-append", CMDLINE + " reboot=t pyvmm.end=reboot",
            "-global", "virtio-mmio.force-legacy=false",
        ]  # fmt: skip
        samples = stats.interleave(
            {QEMU: lambda: run(qemu), OURS: lambda: run(ours)},
            options.plan(args, QEMU, rounds=7, quick=2),
        )
    judged = verdicts([Aim(OURS, figure, QEMU, 1) for figure in samples[QEMU]], samples)
    print(NOTES)
    print(stats.table(samples, QEMU, "ms", 1e3))
    print(text(judged))
    chart.plot(args.plot, "disk", samples, QEMU, "ms", 1e3)
    record.write(
        args.json, "disk", samples, base=QEMU, scale=1e3, unit="ms", judged=judged, notes=NOTES,
        linux=args.linux, work=args.scale,
    )  # fmt: skip
