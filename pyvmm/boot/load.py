# SPDX-License-Identifier: Apache-2.0
"""The one call that loads whatever kernel file it is given."""

from __future__ import annotations

from pyvmm.boot.image import HEAD_SIZE, Image, sniff
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from pyvmm.boot.image import Source
    from pyvmm.config import CpuState
    from pyvmm.machine.memory import GuestMemory, Region


def kind_of(kernel: Image) -> str:
    """Return ``"bzimage"``, ``"multiboot"`` or ``"elf"``; `ImageError` says what another file is."""
    return sniff(kernel.read(0, min(kernel.size, HEAD_SIZE)), kernel.name)


def load_kernel(
    path: str | os.PathLike[str],
    memory: GuestMemory,
    *,
    cmdline: str = "",
    initrd: Iterable[Source] = (),
    rsdp: int = 0,
    reserved: Iterable[Region] = (),
    flat: str | None = None,
    address: int | None = None,
    gib_pages: bool = False,
    fresh: bool = True,
) -> CpuState:
    """Load the kernel at ``path`` into guest memory; return the state of the first vCPU.

    A bzImage, a kernel with a Multiboot header and an ELF vmlinux (by PVH) are told apart by their
    magic. A flat binary has none: ``flat`` says that ``path`` is one, and the mode it starts in
    ("real", "protected", "long"), and ``address`` where it goes (see `flat.load`). ``initrd`` is a
    series of archives, each a path or bytes; for a Multiboot kernel, of modules, whose paths may
    have a string after them (`multiboot.split_module`). ``rsdp`` is the address of the ACPI root
    pointer, 0 for none. ``reserved`` regions are left out of the RAM that the kernel is told of.
    ``gib_pages`` says that the guest's CPUID has 1 GiB pages, ``fresh`` that its memory was never
    written.

    Raise `HostError` when a file cannot be opened or read, `ImageError` when one is not what it
    should be, `ConfigError` when something does not fit the guest. Each names the file and the
    remedy.
    """
    if flat is not None:
        from pyvmm.boot.flat import load as load_flat

        parts = list(initrd)
        if parts or cmdline:
            what = "an initrd" if parts else "a command line"
            raise ConfigError(f"a flat binary has no way to take {what}; leave it out")
        return load_flat(path, memory, mode=flat, address=address, gib_pages=gib_pages)
    with Image(path, "kernel") as kernel:
        if address is not None:
            raise ConfigError(
                f"{kernel.name} states its own address; address= is for flat binaries"
            )
        kind = kind_of(kernel)
        if kind == "bzimage":
            from pyvmm.boot import bzimage

            return bzimage.load(
                kernel,
                memory,
                cmdline=cmdline,
                initrd_parts=initrd,
                rsdp=rsdp,
                reserved=reserved,
                gib_pages=gib_pages,
            )
        if kind == "multiboot":
            from pyvmm.boot import multiboot

            return multiboot.load(
                kernel,
                memory,
                cmdline=cmdline,
                modules=initrd,
                reserved=reserved,
                fresh=fresh,
            )
        from pyvmm.boot import pvh

        return pvh.load(
            kernel,
            memory,
            cmdline=cmdline,
            initrd_parts=initrd,
            rsdp=rsdp,
            reserved=reserved,
            fresh=fresh,
        )
