# SPDX-License-Identifier: Apache-2.0
"""virtio-net on a tap against QEMU's, by itself and with vhost: the same kernel and load, in one
run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.loads import build
from bench.peers import vmm
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from pyvmm.guest.named import find_guest

SPACE = f"pyvmm-bench-{os.getpid()}"
INSIDE = ("ip", "netns", "exec", SPACE)
TAP = "pvbench0"
HOST, GUEST, PORT = "192.168.78.1", "192.168.78.2", "7000"
PROGRAM = "/bin/netload"
MIB = 1 << 20

OURS, QEMU, VHOST = "pyvmm", "QEMU", "QEMU, vhost"
TO, FROM, TRIP = "to the host, a MiB", "from the host, a MiB", "round trip"
#: The program's words, and what one of a figure is.
FIGURES = {"to-host": (TO, MIB), "from-host": (FROM, MIB), "trip": (TRIP, 1)}
AIMS = [Aim(OURS, figure, QEMU, 1) for figure in (TO, FROM, TRIP)]
SCRIPT = f"ip link set eth0 up; ip addr add {GUEST}/24 dev eth0; exec {PROGRAM} {HOST} {PORT}"
NOTES = """\
TCP between the guest and a process of the host, over a tap in a network namespace of its own, with all offloads that
each VMM has. vhost: the host's kernel does the work of the card, which pyvmm does in a thread of its own."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def namespace() -> Iterator[None]:
    """Make a network with a tap in it and nobody else. Wants root."""
    ip("netns", "add", SPACE)
    try:
        ip("-n", SPACE, "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr")
        ip("-n", SPACE, "addr", "add", f"{HOST}/24", "dev", TAP)
        ip("-n", SPACE, "link", "set", TAP, "up")
        yield
    finally:
        ip("netns", "del", SPACE)


def figures(output: str) -> dict[str, float]:
    """Return seconds of each figure, from what the guest printed."""
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
    """Return one guest, with the other side on the host."""
    host = subprocess.Popen([*INSIDE, *server])
    try:
        return figures(vmm.output([*INSIDE, *command]))
    finally:
        host.kill()
        host.wait()


def commands(guest: Any, initrd: str) -> dict[str, list[str]]:
    """Return how each VMM is started."""
    made = {
        QEMU: qemu(guest, initrd, "off"),
        OURS: vmm.pyvmm(guest.vmlinux, initrd, "--net", TAP),
    }
    if has_vhost():
        made[VHOST] = qemu(guest, initrd, "on")
    return made


def qemu(guest: Any, initrd: str, vhost: str) -> list[str]:
    tap = f"tap,id=n,ifname={TAP},script=no,downscript=no,vhost={vhost}"
    return vmm.qemu(guest, initrd, "-netdev", tap, "-device", "virtio-net-device,netdev=n")


def has_vhost() -> bool:
    """Return whether the host's kernel can do it, after it was asked to load what it takes."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "vhost_net"], check=False)
    return os.access("/dev/vhost-net", os.R_OK | os.W_OK)


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    guest = find_guest(args.linux)
    with tempfile.TemporaryDirectory() as folder, namespace():
        program = build.compiled(folder, "netload", "-static")
        initrd = vmm.initrd(guest, folder, ["sh", "-c", SCRIPT], {PROGRAM: program})
        server = [program, "-s", HOST, PORT]
        made = commands(guest, initrd)
        measures = {name: partial(run, server, words) for name, words in made.items()}
        yield Subjects(measures, QEMU, AIMS, NOTES)


SUITE = Suite(
    "virtio-net on a tap against QEMU: streams both ways, round trips",
    subjects,
    unit="us",
    scale=1e6,
    rounds=7,
    quick=2,
    linux=True,
)
