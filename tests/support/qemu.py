# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel and init under another VMM: QEMU, with a fully emulated CPU.

isa-debug-exit at the status port turns what init writes there into QEMU's exit status, 2 * byte + 1
(modulo 256).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.guest.overlay import overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvmm.guest.cache import Guest

SECONDS = 120  # a bound for broken guests; a boot takes one or two
QEMU = (
    *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "256M"),
    *("-nographic", "-no-reboot", "-nic", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
)


class Run:
    """One boot: what the guest printed, and the status that init reported."""

    def __init__(self, output: str, code: int) -> None:
        self.output = output
        self.reported = bool(code & 1)
        self.code = code

    def ended_with(self, status: int) -> bool:
        """Whether init reported that status. QEMU keeps seven bits of it."""
        return self.code == (status * 2 + 1) & 0xFF


def boot(
    guest: Guest,
    folder: Path,
    command: Sequence[str],
    *,
    options: str = "quiet",
    kernel: str | None = None,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str | Path] | None = None,
    devices: Sequence[str] = (),
) -> Run:
    initrd = folder / "initrd"
    initrd.write_bytes(Path(guest.initramfs).read_bytes() + overlay(command, env, files))
    line = f"console=ttyS0 reboot=t panic=-1 {options}"
    image = kernel or guest.kernel
    done = subprocess.run(
        [*QEMU, *devices, "-kernel", image, "-initrd", str(initrd), "-append", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    return Run(done.stdout, done.returncode)
