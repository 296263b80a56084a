# SPDX-License-Identifier: Apache-2.0
"""virtio-mem: a guest that gets more memory while it runs, as an operator would give it instead of
swap.

QEMU has the device on PCI alone, and Linux wants memory hotplug for it; the project's guest kernel
has neither, so that this one is Debian's, on QEMU's q35.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import qmp, vmm
from pyvmm.demo import swapload

MIB = 1 << 20
LINUX = "6.12"
DEVICE = "plug"
FOLDER = "/opt"
#: A memory block of Linux that has not come whole is not used: what may be missing of what was plugged, in KiB.
MISSING = 16 << 10
#: Loads the driver, waits until there is so much more memory ($1 KiB), and runs the program.
SCRIPT = f"""
total() {{ awk '/^MemTotal/ {{ print $2 }}' /proc/meminfo; }}
before=$(total)
echo online_movable > /sys/devices/system/memory/auto_online_blocks
for module in $(cat {FOLDER}/order); do insmod {FOLDER}/$module; done
until [ $(($(total) - before)) -ge $1 ]; do sleep 0.1; done
shift
exec {swapload.PROGRAM} "$@"
"""


def files() -> dict[str, Any]:
    """Return what the guest is given: the program, and the driver with what it needs."""
    from pyvmm.debian import kernelmodules, kernels
    from pyvmm.guest import initramfs

    modules = kernelmodules.module_closure(
        kernels.kernel_package(LINUX).modules_dir, ("virtio_mem",)
    )
    names = [initramfs.plain_name(path) for path in modules]
    data = [kernelmodules.module_bytes(path) for path in modules]
    made: dict[str, Any] = {
        f"{FOLDER}/{name}": each for name, each in zip(names, data, strict=True)
    }
    made[f"{FOLDER}/order"] = "\n".join(names).encode() + b"\n"
    return made | {swapload.PROGRAM: swapload.program()}


def command(guest: Any, initrd: str, door: str, mib: int, more: int) -> list[str]:
    """Return QEMU with a guest of `mib` MiB that can get `more`."""
    return [
        "qemu-system-x86_64", "-M", "q35,accel=kvm", "-cpu", "max", "-m", f"{mib}M,maxmem={2 * (mib + more)}M",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-object", f"memory-backend-ram,id=more,size={more}M",
        "-device", f"virtio-mem-pci,memdev=more,requested-size=0,id={DEVICE}", *qmp.options(door),
        "-kernel", guest.kernel, "-initrd", initrd, "-append", f"{vmm.CMDLINE} {vmm.ENDING}",
    ]  # fmt: skip


def prepare() -> None:
    """Fetch the guest's kernel, into the cache. In the lab there is no network for it."""
    from pyvmm.guest.stock import stock

    stock(LINUX)


def available() -> bool:
    """Return whether it is there."""
    from pyvmm.guest.cache import find_stock

    return find_stock(LINUX) is not None


def run(words: Sequence[str], mib: int, more: int, folder: str, timeout: float) -> str:
    """Return what a guest of `mib` MiB that gets `more` prints, in which the program runs with
    these words.
    """
    from pyvmm.guest.cache import find_stock

    guest = find_stock(LINUX)
    wanted = str((more << 10) - MISSING)
    argv = ["sh", "-c", SCRIPT, "sh", wanted, *words]
    initrd = vmm.initrd(guest, folder, argv, files(), "initrd-hotplug")
    door = str(Path(folder) / "hotplug")
    path = f"/machine/peripheral/{DEVICE}"
    qmp.soon(door, "qom-set", path=path, property="requested-size", value=more * MIB)
    return vmm.output(command(guest, initrd, door, mib, more), timeout)
