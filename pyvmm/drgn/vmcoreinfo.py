# SPDX-License-Identifier: Apache-2.0
"""The note a Linux kernel keeps for crash tools: which kernel it is and where its page tables lie.

Documentation/admin-guide/kdump/vmcoreinfo.rst has its fields. It is found where the kernel says it
is, or by looking through memory, and is believed only if the page tables it points to map
themselves.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, cast

from pyvmm.errors import GuestDataError, GuestMemoryError
from pyvmm.machine import pagewalk
from pyvmm.symbiotic.answer import text as printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.drgn.physical import PhysicalMemory
    from pyvmm.machine.memory import GuestMemory
    from pyvmm.symbiotic.facts import Facts

#: The kernel gives the note a page; more than a few are none.
MAX_SIZE = 1 << 16
#: Facts have no room for more of a release than this.
RELEASE_SIZE = 63
#: Copies, and what is left of earlier kernels, are a handful.
MAX_CANDIDATES = 1024
PAGE = 4096
STEP = 4 << 20

#: Header and name of the note; between them and its text the name is padded to a multiple of 4.
_NHDR = struct.Struct("<III")
_NAME = b"VMCOREINFO\0"
_TEXT = 24

#: Where the kernel's image is mapped (__START_KERNEL_map), before KASLR.
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_WORD = (1 << 64) - 1


class VmcoreInfo(NamedTuple):
    """The note: its `text`, and its lines by name."""

    text: bytes
    fields: dict[str, str]

    @property
    def release(self) -> str:
        """Of the kernel, as uname -r."""
        return self.fields.get("OSRELEASE", "")

    @property
    def build_id(self) -> str:
        """Of its vmlinux, in hexadecimal; empty before Linux 5.9."""
        return self.fields.get("BUILD-ID", "").lower()

    def number(self, name: str, base: int = 0) -> int | None:
        """Return a field that is a number, modulo 2^64; None if it is missing or none."""
        try:
            return int(self.fields[name], base) & _WORD
        except (KeyError, ValueError):
            return None

    @property
    def five_levels(self) -> bool:
        """True if the kernel uses 5-level paging."""
        return bool(self.number("NUMBER(pgtable_l5_enabled)"))

    @property
    def root_gpa(self) -> int | None:
        """Guest-physical address of the kernel's page table."""
        table = self.number("SYMBOL(swapper_pg_dir)", 16)
        base = self.number("NUMBER(phys_base)")
        if table is None or base is None:
            return None
        return table - KERNEL_MAP + base & _WORD


def parse(data: bytes) -> VmcoreInfo:
    """Take the note, or its text alone. Raise GuestDataError if it is neither."""
    text = data
    if len(data) >= _TEXT and data[_NHDR.size : _NHDR.size + len(_NAME)] == _NAME:
        name_size, size, _ = _NHDR.unpack_from(data)
        if name_size != len(_NAME) or size > len(data) - _TEXT:
            raise GuestDataError(f"vmcoreinfo: a note of {size} bytes in {len(data)}")
        text = data[_TEXT : _TEXT + size]
    text = text.partition(b"\0")[0]
    lines = (printable(line).partition("=") for line in text.split(b"\n"))
    info = VmcoreInfo(text, {key: value for key, equals, value in lines if equals})
    if not info.release:
        raise GuestDataError("vmcoreinfo: the text names no kernel release")
    return info


def load(memory: PhysicalMemory, gpa: int, size: int) -> VmcoreInfo:
    """Return the note at a guest-physical address.

    Raise GuestDataError if there is none that can be believed.
    """
    if not 0 < size <= MAX_SIZE:
        raise GuestDataError(f"vmcoreinfo: {size} bytes; there should be 1 to {MAX_SIZE}")
    try:
        info = parse(memory.read(gpa, size))
    except GuestMemoryError as error:
        raise GuestDataError(f"vmcoreinfo: {error}") from error
    check(memory, info)
    return info


def check(memory: PhysicalMemory, info: VmcoreInfo) -> None:
    """Raise GuestDataError unless the kernel's page table, found by the note, maps itself to that
    place.
    """
    root, table = info.root_gpa, info.number("SYMBOL(swapper_pg_dir)", 16)
    if root is None or table is None:
        raise GuestDataError("vmcoreinfo: the text does not say where the kernel's page table is")
    cr4 = pagewalk.CR4_PAE | (pagewalk.CR4_LA57 if info.five_levels else 0)
    found = pagewalk.walk(
        cast("GuestMemory", memory), root, pagewalk.CR0_PG, cr4, pagewalk.EFER_LMA, table
    )
    if found.gpa != root:
        reason = found.reason or f"they map it to {found.gpa:#x}"
        raise GuestDataError(
            f"vmcoreinfo: the page tables at {root:#x} are not the kernel's: {reason}"
        )


def search(memory: PhysicalMemory) -> VmcoreInfo:
    """Look through all of RAM, for a kernel that does not say where the note is.

    Raise GuestDataError if there is none that can be believed, or so many that it could take for
    ever.
    """
    for tried, gpa in enumerate(_candidates(memory)):
        if tried == MAX_CANDIDATES:
            raise GuestDataError(
                f"vmcoreinfo: {tried} pages of the guest's memory look like it, and none is; more are not tried"
            )
        try:
            return load(memory, gpa, PAGE)
        except GuestDataError:
            continue  # a copy, what is left of an earlier kernel, or a file in the page cache
    raise GuestDataError(
        "vmcoreinfo: there is none in the guest's memory; its kernel must have booted and"
        " have CONFIG_VMCORE_INFO (before Linux 6.9 CONFIG_CRASH_CORE), as /proc/kcore gives it"
    )


def _candidates(memory: PhysicalMemory) -> Iterator[int]:
    """Yield addresses of pages that begin like the note: the kernel gives it whole pages."""
    for start, size in memory.ram:
        for at in range(start, start + size, STEP):
            chunk = memory.read(at, min(STEP, start + size - at))
            found = chunk.find(_NAME)
            while found >= 0:
                if found % PAGE == _NHDR.size and found - _NHDR.size + PAGE <= len(chunk):
                    yield at + found - _NHDR.size
                found = chunk.find(_NAME, found + 1)


def of_guest(memory: PhysicalMemory, facts: Facts | None) -> VmcoreInfo:
    """Return the note where the kernel says it is, else wherever it is found. Raise GuestDataError."""
    if facts is None or facts.vmcoreinfo_gpa is None:
        return search(memory)
    info = load(memory, facts.vmcoreinfo_gpa, facts.vmcoreinfo_size)
    offset = info.number("KERNELOFFSET", 16) or 0
    for what, said, noted in (
        ("KASLR offset", facts.kaslr_offset, offset),
        ("page table", facts.kernel_pgd_gpa, info.root_gpa),
        ("release", facts.release, info.release[:RELEASE_SIZE]),
    ):
        if said is not None and said != noted:
            raise GuestDataError(
                f"the guest's kernel contradicts itself: {what} {said!r}, in vmcoreinfo {noted!r}"
            )
    return info
