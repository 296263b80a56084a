# SPDX-License-Identifier: Apache-2.0
"""A guest of pyvmm's under QEMU, which knows nothing of the symbiotic interface."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from pyvmm.guest.named import find_guest
from pyvmm.guest.overlay import overlay

if TYPE_CHECKING:
    from pathlib import Path

QUIET = re.compile(r"symbiotic|symcall|v3v|registered on cpu", re.IGNORECASE)
SCRIPT = "dmesg; echo cpus $(nproc) hypervisor $(grep -c hypervisor /proc/cpuinfo)"
CPUS = 2
#: All CPUs on one thread: none can run what another has patched away (docs/lab.md), whatever the version.
TCG = "tcg,thread=single"


def log_of_a_boot(folder: Path, name: str, accelerator: str, seconds: float) -> str:
    """The console of a guest that boots, prints its kernel's log and ends; CPUs and so on in the last line of it."""
    guest = find_guest(name)
    initrd = folder / "initrd"
    with open(guest.initramfs, "rb") as file:
        initrd.write_bytes(file.read() + overlay(["sh", "-c", SCRIPT]))
    command = [
        *("qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-smp", str(CPUS)),
        *("-m", "256", "-kernel", guest.kernel, "-initrd", str(initrd), "-no-reboot"),
        *("-append", "console=ttyS0 panic=-1 loglevel=8", "-nodefaults", "-display", "none"),
        *("-serial", "stdio"),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace") + text
    return text


def check_silence(text: str) -> None:
    """The guest came up with all its CPUs, under a hypervisor, and its driver has said nothing."""
    assert f"cpus {CPUS} hypervisor {CPUS}" in text
    assert text.count("Linux version") >= 2  # on the console, and out of dmesg
    assert [line for line in text.splitlines() if QUIET.search(line)] == []
