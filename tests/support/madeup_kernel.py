# SPDX-License-Identifier: Apache-2.0
"""A kernel that is made up: its memory with page tables and a note, what it says of itself, its vmlinux."""

from __future__ import annotations

import struct
from pathlib import Path

from pyvmm.drgn import vmcoreinfo
from pyvmm.errors import GuestMemoryError
from pyvmm.machine.memory import Region
from pyvmm.symbiotic.facts import Facts

MIB = 1 << 20
KERNEL_MAP = vmcoreinfo.KERNEL_MAP
#: Of the made-up kernel: KASLR offset, guest-physical address of its page table and that table's virtual address.
KASLR, ROOT, NOTE = 0x1A00000, 0x3000, 0x10000
PHYS_BASE = 0x1000 - KASLR & (1 << 64) - 1
TABLE = KERNEL_MAP + ROOT - PHYS_BASE & (1 << 64) - 1
BUILD_ID = "00112233445566778899aabbccddeeff00112233"


class Memory:
    """Two mebibytes of RAM at 0 and one at 4 GiB."""

    ram = (Region(0, 2 * MIB), Region(4 << 30, MIB))

    def __init__(self) -> None:
        self.parts = {region.gpa: bytearray(region.size) for region in self.ram}

    def _at(self, gpa: int, length: int) -> tuple[bytearray, slice]:
        for start, data in self.parts.items():
            if start <= gpa and gpa + length <= start + len(data):
                return data, slice(gpa - start, gpa - start + length)
        raise GuestMemoryError(f"{gpa:#x}")

    def read(self, gpa: int, length: int) -> bytes:
        data, where = self._at(gpa, length)
        return bytes(data[where])

    def write(self, gpa: int, content: bytes) -> None:
        data, where = self._at(gpa, len(content))
        data[where] = content


def text(**changes: str | None) -> bytes:
    """The text of a note; None leaves a line out."""
    fields: dict[str, str | None] = {
        "OSRELEASE": "6.12.117-made-up",
        "BUILD-ID": BUILD_ID,
        "PAGESIZE": "4096",
        "SYMBOL(swapper_pg_dir)": f"{TABLE:x}",
        "KERNELOFFSET": f"{KASLR:x}",
        "NUMBER(phys_base)": str(PHYS_BASE - (1 << 64) if PHYS_BASE >> 63 else PHYS_BASE),
        "NUMBER(pgtable_l5_enabled)": "0",
    }
    fields.update(changes)
    return "".join(f"{k}={v}\n" for k, v in fields.items() if v is not None).encode()


def note(content: bytes) -> bytes:
    return struct.pack("<III", 11, len(content), 0) + b"VMCOREINFO\0\0" + content


def guest(content: bytes | None = None, where: int = NOTE) -> Memory:
    """Memory with page tables that map themselves, and with a note."""
    memory = Memory()
    table = ROOT
    for level, shift in enumerate((39, 30, 21, 12)):
        target = ROOT if shift == 12 else 0x4000 + level * 0x1000
        memory.write(table + (TABLE >> shift & 511) * 8, struct.pack("<Q", target | 3))
        table = target
    memory.write(where, note(text() if content is None else content))
    return memory


def facts(**changes: object) -> Facts:
    found = Facts(
        release="6.12.117-made-up",
        version="#1",
        out_of_tree=False,
        kaslr_offset=KASLR,
        phys_base=PHYS_BASE,
        page_offset=None,
        vmcoreinfo_gpa=NOTE,
        vmcoreinfo_size=4096,
        kernel_pgd_gpa=ROOT,
        page_table_levels=4,
        percpu_base=None,
        cpu=0,
        possible_cpus=1,
    )
    return found._replace(**changes)


def elf(
    folder: Path,
    name: str = "vmlinux",
    *,
    build_id: str = BUILD_ID,
    types: bool = True,
    banner: str = "6.12.117-made-up",
) -> str:
    """A kernel without code: sections for its build id, its banner and its types."""
    value = bytes.fromhex(build_id)
    notes = struct.pack("<III", 4, 4, 1) + b"GNU\0" + b"abcd"
    notes += struct.pack("<III", 4, len(value), 3) + b"GNU\0" + value
    bodies = {
        "": b"",
        ".notes": notes,
        ".rodata": f"Linux version {banner} (pyvmm@pyvmm)".encode(),
        ".debug_info" if types else ".symtab": bytes(8),
    }
    names = b""
    headers, data = b"", b""
    for section, body in [*bodies.items(), (".shstrtab", b"")]:
        at = len(names)
        names += section.encode() + b"\0"
        body = names if section == ".shstrtab" else body
        kind = {"": 0, ".notes": 7, ".shstrtab": 3}.get(section, 1)
        headers += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, 64 + len(data), len(body), 0, 0, 1, 0)
        data += body
    count = len(bodies) + 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(
            b"\x7fELF\x02\x01\x01",
            2,
            62,
            1,
            0,
            0,
            64 + len(data),
            0,
            64,
            0,
            0,
            64,
            count,
            count - 1,
        ),
    )
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + data + headers)
    return str(path)
