# SPDX-License-Identifier: Apache-2.0
"""The outer machine's kernel and initramfs, made once and kept in the cache by their content."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import kernelmodules, kernels, tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cpio

FORMAT = "1"  # raise it when what is in a cached image changes without a change of the sources
VERSIONS = ("6.1", "6.12")  # tried in this order; $PYVMM_LAB_LINUX names one
EARLY = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
LATE = ("kvm-amd", "tun")  # everything else can be had with modprobe in the lab
SIGNATURE = b"~Module signature appended~\n"


class Image(NamedTuple):
    """The paths of the files that QEMU boots, and the settings for the first process."""

    kernel: str
    initramfs: str
    late: tuple[str, ...]  # modules in the initramfs, in load order
    modules_dir: str  # the host's path of all the kernel's modules
    release: str


def outer_kernel() -> kernels.KernelFiles:
    """Return Debian's kernel for the lab, from the cache or from apt.

    Raise HostError when apt has none of the versions.
    """
    chosen = os.environ.get("PYVMM_LAB_LINUX")
    versions = (chosen,) if chosen else VERSIONS
    for version in versions:
        if (known := kernels.remembered_kernel(version)) is not None:
            return known
    error: HostError | None = None
    for version in versions:
        try:
            return kernels.kernel_package(version)
        except HostError as failure:
            error = error or failure
    assert error is not None
    raise error


def image() -> Image:
    """Return the image of the current sources and kernel; build it the first time, which takes
    seconds.
    """
    kernel = outer_kernel()
    folder = Path(cache_root()) / "lab" / f"{kernel.release}-{digest(kernel)}"
    if not folder.is_dir():
        with tools.lock("lab/image"):
            if not folder.is_dir():
                tools.publish(folder, lambda fresh: build(fresh, kernel))
    late = (folder / "late").read_text(encoding="utf-8").split()
    return Image(
        kernel=str(folder / "vmlinux"),
        initramfs=str(folder / "initramfs"),
        late=tuple(late),
        modules_dir=kernel.modules_dir,
        release=kernel.release,
    )


def sources() -> list[Path]:
    """Return the C files and headers of the outer machine's first process, in order."""
    return sorted(Path(__file__).with_name("init").glob("*.[ch]"))


def digest(kernel: kernels.KernelFiles) -> str:
    """List what the image is made of."""
    sum = hashlib.sha256("\0".join([FORMAT, kernel.vmlinuz, *EARLY, *LATE]).encode())
    for path in sources():
        sum.update(b"\0" + path.read_bytes())
    return sum.hexdigest()[:16]


def build(folder: Path, kernel: kernels.KernelFiles) -> None:
    """Make the files of an image."""
    message = f"pyvmm lab: making the image of the outer machine, Linux {kernel.release}"
    print(message, file=sys.stderr, flush=True)
    (folder / "vmlinux").write_bytes(bootable(Path(kernel.vmlinuz).read_bytes()))
    early = kernelmodules.module_closure(kernel.modules_dir, EARLY)
    late = [
        path for path in kernelmodules.module_closure(kernel.modules_dir, LATE) if path not in early
    ]
    archive = cpio.Archive()
    archive.file("init", compiled(folder), 0o755)
    archive.directory("modules")
    for path in early + late:
        archive.file(packed_name(path), unsigned(kernelmodules.module_bytes(path)))
    order = "".join(f"/{packed_name(path)}\n" for path in early)
    archive.file("modules/order", order.encode())
    (folder / "initramfs").write_bytes(archive.finish())
    (folder / "late").write_text("".join(f"/{packed_name(path)}\n" for path in late))


def packed_name(path: str) -> str:
    """Return the place of a module in the initramfs."""
    return f"modules/{kernelmodules.module_name(path)}.ko"


def compiled(folder: Path) -> bytes:
    """Return the first process, as a static program.

    Raise HostError when there is no compiler, or it fails.
    """
    program = folder / "init"
    units = [path for path in sources() if path.suffix == ".c"]
    tools.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-static", "-s", "-o", program, *units],
        what="compiling the lab's first process",
    )
    data = program.read_bytes()
    program.unlink()
    return data


def unsigned(module: bytes) -> bytes:
    """Return a module without its signature, which an emulated CPU would spend long on checking.

    The trailer is `struct module_signature`: eight bytes, and the length as a big-endian u32.
    """
    if not module.endswith(SIGNATURE):
        return module
    end = len(module) - len(SIGNATURE)
    (length,) = struct.unpack(">I", module[end - 4 : end])
    return module[: end - 12 - length] if length <= end - 12 else module


def bootable(bzimage: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage, or the bzImage where that cannot be had.

    QEMU enters an ELF kernel by its PVH note. The bzImage would unpack itself on the emulated CPU,
    which takes 3.6 s; here it takes one. Source: the kernel's boot protocol, payload_offset and
    payload_length.
    """
    if len(bzimage) < 0x250 or bzimage[0x202:0x206] != b"HdrS":
        raise ConfigError("the outer kernel is not a bzImage")
    (offset, length) = struct.unpack_from("<II", bzimage, 0x248)
    start = ((bzimage[0x1F1] or 4) + 1) * 512 + offset
    kernel = decompressed(bzimage[start : start + length])
    return kernel if kernel.startswith(b"\x7fELF") else bzimage


def decompressed(payload: bytes) -> bytes:
    """Return the payload of a bzImage; empty if it is in a form not known here.

    The kernel's build appends the size to every form, so the ends of streams are found, not
    assumed.
    """
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        command = [tools.tool("zstd"), "-dcq"]
        return subprocess.run(command, input=payload[:-4], capture_output=True, check=True).stdout
    return b""
