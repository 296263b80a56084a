# SPDX-License-Identifier: Apache-2.0
"""The bzImage: Linux's own format, entered in 64-bit mode.

The setup header is read and checked, the protected-mode part is loaded, and the kernel starts at
the 64-bit entry point (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"). The real-mode
setup code is not used.
"""

from __future__ import annotations

import struct

from pyvmm.boot import e820, initrd, params, segments
from pyvmm.boot.e820 import HIGH_MEMORY
from pyvmm.boot.layout import PAGE_SIZE, align_up, low_memory_end, mib, write_command_line
from pyvmm.config import CpuState
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from pyvmm.boot.image import Image, Source
    from pyvmm.machine.memory import GuestMemory, Region
else:
    from pyvmm.record import NamedTuple

_SECTOR = 512
#: The header states the image's size in paragraphs, as ``syssize``.
_PARAGRAPH = 16
#: The header's fields up to init_size must be there; what follows is optional.
_FIELDS_END = 0x264
_BOOT_FLAG = 0xAA55
_VERSION_64BIT = 0x020C
_LOADED_HIGH = 1 << 0
_XLF_KERNEL_64 = 1 << 0
_ENTRY_64 = 0x200


class SetupHeader(NamedTuple):
    """The fields of the setup header that a loader needs; names as in boot.rst."""

    raw: bytes
    setup_size: int
    image_size: int  #: bytes that the file has of the protected-mode part
    version: int
    initrd_addr_max: int
    cmdline_size: int
    relocatable: bool
    kernel_alignment: int
    pref_address: int
    init_size: int

    @property
    def load_address(self) -> int:
        """The guest-physical address of the protected-mode part: where it will run, or 1 MiB if it
        cannot be moved (boot.rst: `pref_address`, `relocatable_kernel`).
        """
        return self.runtime_start if self.relocatable else HIGH_MEMORY

    @property
    def runtime_start(self) -> int:
        """The guest-physical address where the kernel unpacks itself, with ``init_size`` bytes from
        there for its own use (boot.rst: `init_size`).
        """
        if not self.relocatable:
            return self.pref_address
        return align_up(max(self.pref_address, HIGH_MEMORY), self.kernel_alignment)

    @property
    def end(self) -> int:
        """The first guest-physical address that neither the image nor the unpacked kernel will
        touch.
        """
        return max(self.load_address + self.image_size, self.runtime_start + self.init_size)


def parse(image: Image) -> SetupHeader:
    """Read and check the setup header (boot.rst, "The Real-Mode Kernel Header").

    Raise `ImageError` for what the 64-bit protocol does not allow.
    """
    if image.size < _FIELDS_END:
        raise ImageError(
            f"{image.name} is truncated: {image.size} bytes do not hold a setup header; "
            "copy or build it again"
        )
    head = image.read(0, min(image.size, params.HEADER_LIMIT))
    header = _fields(head, image.name)
    _check_place(header, image.name)
    # A size in paragraphs is rounded up, so the last paragraph may be short: memtest86+ is not
    # padded.
    missing = header.setup_size + header.image_size - image.size
    if missing >= _PARAGRAPH:
        raise ImageError(
            f"{image.name} is truncated: its header states {header.setup_size + header.image_size} "
            f"bytes and the file has {image.size}; copy or build it again"
        )
    return header._replace(image_size=header.image_size - max(missing, 0))


def _fields(head: bytes, name: str) -> SetupHeader:
    boot_flag, jump, length, magic, version = struct.unpack_from("<HBB4sH", head, 0x1FE)
    if magic != b"HdrS" or boot_flag != _BOOT_FLAG:
        raise ImageError(f"{name} is not a bzImage: the setup header's magic is missing")
    if version < _VERSION_64BIT:
        raise ImageError(
            f"{name} speaks boot protocol {version >> 8}.{version & 0xFF:02}, and the 64-bit entry "
            "needs 2.12; use Linux 3.8 or newer, or the kernel's ELF vmlinux"
        )
    # The byte after the short jump's opcode is its signed distance, and with it the header's
    # length.
    end = 0x202 + length
    if jump != 0xEB or not _FIELDS_END <= end <= 0x202 + 0x7F or end > len(head):
        raise ImageError(f"{name} has a malformed setup header: it claims to end at {end:#x}")
    if not head[0x211] & _LOADED_HIGH:
        raise ImageError(f"{name} is a zImage, which is loaded low; build a bzImage")
    (xloadflags,) = struct.unpack_from("<H", head, 0x236)
    if not xloadflags & _XLF_KERNEL_64:
        raise ImageError(
            f"{name} has no 64-bit entry point, so it is a 32-bit kernel; "
            "give one with CONFIG_64BIT=y"
        )
    alignment, relocatable = struct.unpack_from("<IB", head, 0x230)
    pref_address, init_size = struct.unpack_from("<QI", head, 0x258)
    return SetupHeader(
        raw=head[params.HEADER_START : end],
        # Zero sectors mean four, for compatibility; the boot sector comes on top.
        setup_size=((head[0x1F1] or 4) + 1) * _SECTOR,
        image_size=struct.unpack_from("<I", head, 0x1F4)[0] * _PARAGRAPH,
        version=version,
        initrd_addr_max=struct.unpack_from("<I", head, 0x22C)[0],
        cmdline_size=struct.unpack_from("<I", head, 0x238)[0],
        relocatable=bool(relocatable),
        kernel_alignment=alignment,
        pref_address=pref_address,
        init_size=init_size,
    )


def _check_place(header: SetupHeader, name: str) -> None:
    """Refuse sizes and addresses that no kernel build makes."""
    alignment = header.kernel_alignment
    if header.relocatable and (alignment < PAGE_SIZE or alignment & (alignment - 1)):
        raise ImageError(f"{name} asks for an alignment of {alignment:#x}, not a power of two")
    if not header.relocatable and header.pref_address < HIGH_MEMORY:
        raise ImageError(f"{name} wants to run at {header.pref_address:#x}, below 1 MiB")
    if header.image_size <= _ENTRY_64:
        raise ImageError(f"{name} is malformed: its header states no protected-mode code")
    if header.init_size == 0:
        raise ImageError(f"{name} is malformed: its header states an init_size of 0")


def load(
    image: Image,
    memory: GuestMemory,
    *,
    cmdline: str = "",
    initrd_parts: Iterable[Source] = (),
    rsdp: int = 0,
    reserved: Iterable[Region] = (),
    gib_pages: bool = False,
) -> CpuState:
    """Load the kernel with all it is told; return the state of the first vCPU.

    Raise `ImageError` for a bad image and `ConfigError` when kernel, initrd or command line do not
    fit.
    """
    header = parse(image)
    low_end = low_memory_end(memory)
    if header.end > low_end:
        raise ConfigError(
            f"{image.name} needs memory up to {mib(header.end)} MiB to unpack itself, and the guest "
            f"has {mib(low_end)} MiB in one piece; give it more memory"
        )
    command_line = write_command_line(memory, cmdline, header.cmdline_size)
    placed = initrd.load(
        memory,
        initrd_parts,
        floor=header.end,
        ceiling=min(low_end, header.initrd_addr_max + 1),
    )
    load_address = header.load_address
    with memory.view(load_address, header.image_size) as view:
        image.read_into(header.setup_size, view)
    boot_params = params.write(
        memory,
        header.raw,
        load_address=load_address,
        cmdline=command_line,
        initrd=placed,
        rsdp=rsdp,
        e820=e820.build(memory.ram, reserved),
    )
    return CpuState(
        mode="long",
        rip=load_address + _ENTRY_64,
        rsi=boot_params,
        cr3=segments.write_identity_map(memory, gib_pages=gib_pages),
        gdt_base=segments.write_gdt(memory, long_mode=True),
        gdt_limit=segments.GDT_LIMIT,
    )
