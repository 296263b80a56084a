# SPDX-License-Identifier: Apache-2.0
"""The outer machine with VT-x: what Bochs boots, made once and kept in the cache by its content,
and its start.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.guest import cpio
from pyvmm.lab import bochs, bootdisk, image, outerkernel, parcel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.lab.outer import Spawned

FORMAT = "1"  # raise it when what is in a cached image changes without a change of the sources
BOOT_TIMEOUT = 300.0  # seconds; it takes about 15
CPUS = 1
MEMORY = "2G"
LARGEST_MEMORY = 2048  # MiB; devices begin above, and Bochs takes it all as one piece
#: The rate of the TSC is Bochs's of instructions; its CPUID says another. And the size that CPUID has for the compacted
#: XSAVE area is not the sum of its parts: with that, Linux would give up XSAVE altogether. reboot=t ends Bochs.
#: Bochs 3.0 has posted interrupts, and refuses each entry with them: "Posted Interrupt Descriptor phy addr malformed".
KERNEL_WORDS = (
    f"console=ttyS0 panic=-1 reboot=t quiet nokaslr mitigations=off tsc=reliable no_timer_check "
    f"tsc_early_khz={bochs.RATE // 1000} clearcpuid=xsavec,xsaves kvm_intel.enable_apicv=0 lab_port=/dev/ttyS1"
)


class Image(NamedTuple):
    """The paths of the files that Bochs boots, but for the parcel."""

    kernel: bootdisk.Flat
    rom: bytes
    init: bytes  # an initramfs with the first process


def prepared() -> Image:
    """Return the image of the current sources; build it and its kernel the first time, which takes
    minutes.
    """
    kernel = outerkernel.build()
    folder = Path(cache_root()) / "lab" / f"vmx-{digest(kernel)}"
    if not folder.is_dir():
        with tools.lock("lab/image"):
            if not folder.is_dir():
                tools.publish(folder, build)
    return Image(
        kernel=bootdisk.flat(kernel / "vmlinux"),
        rom=(folder / "rom").read_bytes(),
        init=(folder / "initramfs").read_bytes(),
    )


def digest(kernel: Path) -> str:
    """List what the image is made of."""
    sum = hashlib.sha256("\0".join([FORMAT, kernel.name]).encode())
    for path in [bootdisk.ROM, *image.sources()]:
        sum.update(b"\0" + path.read_bytes())
    return sum.hexdigest()[:16]


def build(folder: Path) -> None:
    """Make the files of an image."""
    print("pyvmm lab: making the image of the outer machine", file=sys.stderr, flush=True)
    (folder / "rom").write_bytes(bootdisk.code(folder))
    archive = cpio.Archive()
    archive.file("init", image.compiled(folder), 0o755)
    archive.file("packed", b"")
    archive.directory("modules")
    archive.file("modules/order", b"")
    archive.directory("dev")
    archive.character_device("dev/console", 5, 1, 0o600)
    (folder / "initramfs").write_bytes(archive.finish())


def spawn(*, cpus: int, memory: int, ept: bool, folder: str, pack: Iterable[str]) -> Spawned:
    """Start the machine with the files for commands in ``folder``. ``memory`` is in MiB."""
    ready = prepared()
    files = [ready.init, parcel.parcel(folder, pack)]
    if sys.stderr.isatty():
        size = len(files[1]) >> 20
        message = (
            f"pyvmm lab: {size} MiB of files go along; the machine takes some seconds to start"
        )
        print(message, file=sys.stderr, flush=True)
    words = f"{KERNEL_WORDS} kvm_intel.ept={int(ept)}"
    boot = bootdisk.boot(ready.kernel, ready.rom, words, files, memory << 20)
    return bochs.spawn(boot, cpus=cpus, memory=memory)
