# SPDX-License-Identifier: Apache-2.0
"""The one call that loads whatever kernel file it is given, and what kind of file that is."""

from __future__ import annotations

from pyvmm.boot.image import Image
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from pyvmm.boot.image import Source
    from pyvmm.config import CpuState
    from pyvmm.machine.memory import GuestMemory, Region


#: Bytes that `sniff` looks at, at most.
HEAD_SIZE = 8192
_MULTIBOOT_MAGIC = b"\x02\xb0\xad\x1b"


def kind_of(kernel: Image) -> str:
    """Tell the kind of a kernel: ``"bzimage"``, ``"multiboot"`` or ``"elf"``.

    Raise `ImageError`, which says what another file is.
    """
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


def sniff(head: bytes, name: str) -> str:
    """Tell the kind by the first `HEAD_SIZE` bytes of a file, ``name`` for messages.

    The kinds are those of `kind_of`. An ELF file with a Multiboot header counts as Multiboot. Raise
    `ImageError` for all else.
    """
    if head[0x202:0x206] == b"HdrS" and not head.startswith(b"\x7fELF"):
        return "bzimage"
    if _MULTIBOOT_MAGIC in head:
        from pyvmm.boot import multiboot

        if multiboot.find(head) is not None:
            return "multiboot"
    if head.startswith(b"\x7fELF"):
        return "elf"
    from pyvmm.boot import compression

    form = compression.form_of(head)
    if form is not None:
        raise ImageError(
            f"{name} is {form.name}-compressed; decompress it ({form.command} FILE > vmlinux) and "
            "give that, or give the bzImage of the same kernel"
        )
    raise ImageError(f"{name} {_other(head)}")


_GIVE = "give an x86-64 bzImage or vmlinux"


def _other(head: bytes) -> str:
    """Say what a file that no loader takes seems to be, and the remedy."""
    if head[56:60] == b"ARM\x64":
        return f"is an ARM64 kernel (Image); this machine is x86-64: {_GIVE}"
    if head[56:60] == b"RSC\x05":
        return f"is a RISC-V kernel (Image); this machine is x86-64: {_GIVE}"
    if head.startswith(b"MZ") and head[4:8] == b"zimg":
        return f"is an EFI zboot kernel; this machine has no EFI: {_GIVE}"
    if head.startswith(b"MZ") and b".linux\0" in head:
        return (
            "is a unified kernel image, and this machine has no EFI; take the bzImage out of it "
            "(objcopy -O binary -j .linux FILE vmlinuz) and give that"
        )
    if head.startswith(b"MZ"):
        return (
            "is an EFI or DOS program without a Linux boot header; give a bzImage or an ELF vmlinux"
        )
    if head.startswith((b"070701", b"070702", b"\xc7\x71")):
        return "is a cpio archive; pass it as the initrd, and give a kernel as well"
    if head.startswith(b"\xd0\x0d\xfe\xed"):
        return f"is a device tree or a FIT image; this machine is x86-64: {_GIVE}"
    if head.startswith(b"QFI\xfb"):
        return "is a qcow2 disk image; give the kernel itself, a bzImage or an ELF vmlinux"
    if head[510:512] == b"\x55\xaa":
        return (
            "is a disk image or a boot sector; give a kernel (a bzImage or an ELF vmlinux), "
            "or say that it is a flat binary (--flat real; in Python flat='real')"
        )
    return (
        "is neither a bzImage nor an ELF or Multiboot kernel; give one of those, "
        "or say that it is a flat binary (--flat real; in Python flat='real')"
    )
