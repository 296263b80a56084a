# SPDX-License-Identifier: Apache-2.0
"""virtio-net on a tap against QEMU's, by itself and with vhost: the same kernel and load, in one run."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import chart, options, record, stats
from bench.aims import Aim, text, verdicts

HERE = Path(__file__).resolve().parent
SPACE = f"pyvmm-bench-{os.getpid()}"
INSIDE = ("ip", "netns", "exec", SPACE)
TAP = "pvbench0"
HOST, GUEST, PORT = "192.168.78.1", "192.168.78.2", "7000"
PROGRAM = "/bin/netload"
CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 8250.nr_uarts=1 reboot=t pyvmm.end=reboot"
PATIENCE = 600
MIB = 1 << 20

OURS, QEMU, VHOST = "pyvmm", "QEMU", "QEMU, vhost"
TO, FROM, TRIP = "to the host, a MiB", "from the host, a MiB", "round trip"
#: The program's words, and what one of a figure is.
FIGURES = {"to-host": (TO, MIB), "from-host": (FROM, MIB), "trip": (TRIP, 1)}
SCRIPT = f"ip link set eth0 up; ip addr add {GUEST}/24 dev eth0; exec {PROGRAM} {HOST} {PORT}"
NOTES = """\
TCP between the guest and a process of the host, over a tap in a network namespace of its own, with all offloads that
each VMM has. vhost: the host's kernel does the work of the card, which pyvmm does in a thread of its own."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def namespace() -> Iterator[None]:
    """A network with a tap in it and nobody else. Wants root."""
    ip("netns", "add", SPACE)
    try:
        ip("-n", SPACE, "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr")
        ip("-n", SPACE, "addr", "add", f"{HOST}/24", "dev", TAP)
        ip("-n", SPACE, "link", "set", TAP, "up")
        yield
    finally:
        ip("netns", "del", SPACE)


def build_load(folder: str) -> str:
    program = str(Path(folder) / "netload")
    source = str(HERE / "netload.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    return program


def figures(output: str) -> dict[str, float]:
    """Seconds of each figure, from what the guest printed."""
    found = {}
    for line in output.splitlines():
        if line.startswith("@@"):
            word, seconds, count = line[2:].split()
            name, unit = FIGURES[word]
            found[name] = float(seconds) * unit / int(count)
    if len(found) < len(FIGURES):
        raise RuntimeError(f"the load did not finish: {output[-2000:]}")
    return found


def run(server: list[str], command: list[str]) -> dict[str, float]:
    """One guest, with the other side on the host."""
    host = subprocess.Popen([*INSIDE, *server])
    try:
        done = subprocess.run(
            [*INSIDE, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
        )  # fmt: skip
    finally:
        host.kill()
        host.wait()
    return figures(done.stdout.decode("utf-8", "replace"))


def commands(guest: Any, initrd: str) -> dict[str, list[str]]:
    """How each VMM is started."""
    ours = [
        sys.executable, "-m", "pyvmm", "run", "--console", "serial", "-m", "256M", "--net", TAP,
        "-k", guest.vmlinux, "-i", initrd, "-p", "quiet loglevel=3",
    ]  # fmt: skip
    made = {QEMU: qemu(guest, initrd, "off"), OURS: ours}
    if has_vhost():
        made[VHOST] = qemu(guest, initrd, "on")
    return made


def qemu(guest: Any, initrd: str, vhost: str) -> list[str]:
    return [
        "qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,rtc=off,auto-kernel-cmdline=on", "-cpu", "max",
        "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-netdev", f"tap,id=n,ifname={TAP},script=no,downscript=no,vhost={vhost}",
        "-device", "virtio-net-device,netdev=n", "-global", "virtio-mmio.force-legacy=false",
        "-kernel", guest.vmlinux, "-initrd", initrd, "-append", CMDLINE,
    ]  # fmt: skip


def has_vhost() -> bool:
    """Whether the host's kernel can do it, after it was asked to load what it takes."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "vhost_net"], check=False)
    return os.access("/dev/vhost-net", os.R_OK | os.W_OK)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--linux", default="6.12")


def subjects(guest: Any, folder: str) -> dict[str, Callable[[], dict[str, float]]]:
    """All of them, ready to be run."""
    from pyvmm.guest.overlay import overlay

    program = build_load(folder)
    initrd = Path(folder) / "initrd"
    extra = overlay(["sh", "-c", SCRIPT], files={PROGRAM: program})
    initrd.write_bytes(Path(guest.initramfs).read_bytes() + extra)
    server = [program, "-s", HOST, PORT]
    made = commands(guest, str(initrd))
    return {name: partial(run, server, words) for name, words in made.items()}


def main(args: argparse.Namespace) -> None:
    from pyvmm.cli.plan import find_guest

    options.check_plot(args)
    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory() as folder, namespace():
        samples = stats.interleave(
            subjects(guest, folder), options.plan(args, QEMU, rounds=7, quick=2)
        )
    judged = verdicts([Aim(OURS, figure, QEMU, 1) for figure in (TO, FROM, TRIP)], samples)
    print(NOTES)
    print(stats.table(samples, QEMU, "us", 1e6))
    print(text(judged))
    chart.plot(args.plot, "net", samples, QEMU, "us", 1e6)
    record.write(
        args.json, "net", samples, base=QEMU, scale=1e6, unit="us", judged=judged, notes=NOTES,
        linux=args.linux,
    )  # fmt: skip
