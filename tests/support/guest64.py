# SPDX-License-Identifier: Apache-2.0
"""64-bit bare-metal guests for tests, of the C and assembly in tests/support/guests."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pyvmm.config import CpuState, MachineConfig
from pyvmm.machine.machine import Machine
from tests.support.tree import ROOT

SOURCES = Path(__file__).resolve().parent / "guests"
INTERFACE = ROOT / "include" / "symbiotic.h"
#: Kept between runs: a compiler in the lab takes its time.
CACHE = ROOT / "build" / "guests"
FLAGS = [
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-ffreestanding"),
    *(
        "-nostdlib",
        "-static",
        "-no-pie",
        "-fno-pie",
        "-fno-stack-protector",
        "-fcf-protection=none",
    ),
    *("-mno-red-zone", "-mgeneral-regs-only", "-fno-asynchronous-unwind-tables", "-march=x86-64"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"),
]

#: What `build` is asked for.
REMOTE = ("remote.c", "remote.S")
INTEGRITY = (
    *("integrity.c", "operations.c", "events.c", "vectors.c", "system.c"),
    *("upcall.c", "window.S"),
)
GUESTS = (REMOTE, INTEGRITY)

BOOT_GDT = 0x1000
KERNEL_TABLES = 0x2000
USER_TABLES = 0x3000  # the same without what is in the section .handler
PRESENT, WRITABLE, USER, LARGE = 1, 2, 4, 0x80
MMIO = 0xD0100000
REPORT = 0xD0200000


def is_software() -> bool:
    """Whether KVM has neither VT-x nor SVM."""
    return not any(os.path.exists(f"/sys/module/{name}") for name in ("kvm_amd", "kvm_intel"))


class Image:
    """A linked guest: its bytes from `base` on and the addresses of its symbols."""

    def __init__(self, flat: bytes, symbols: dict[str, int]) -> None:
        self.flat = flat
        self.symbols = symbols
        self.base = 0x100000
        self.end = symbols["guest_end"]


@functools.cache
def build(*names: str) -> Image:
    """Compiles and links the named sources of tests/support/guests with what all guests need."""
    parts = ("start.S", "base.c", *names)
    digest = hashlib.sha256(repr((parts, FLAGS)).encode())
    for path in (*sorted(SOURCES.iterdir()), INTERFACE):
        digest.update(path.read_bytes())
    elf = CACHE / f"{names[0]}-{digest.hexdigest()[:16]}.elf"
    if not elf.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # A name of its own: labs build beside each other here, and the numbers of their processes are alike.
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / elf.name
            files = [str(SOURCES / part) for part in parts]
            more = [f"-I{INTERFACE.parent}", f"-Wl,-T,{SOURCES / 'guest.ld'}"]
            subprocess.run(["gcc", *FLAGS, *more, "-o", str(made), *files], check=True)
            made.rename(elf)
    with tempfile.TemporaryDirectory() as folder:
        flat = Path(folder) / "flat"
        subprocess.run(["objcopy", "-O", "binary", str(elf), str(flat)], check=True)
        data = flat.read_bytes()
    listing = subprocess.run(["nm", str(elf)], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return Image(data, {row[-1]: int(row[0], 16) for row in rows if len(row) == 3})


def page_tables(image: Image) -> bytes:
    """All tables from KERNEL_TABLES on: 16 MiB and the last GiB below 4 GiB one to one, for all levels of privilege."""
    tables = [[0] * 512 for _ in range(9)]
    pml4, pml4_user, pdpt, pdpt_user, pd, pd_user, pd_high, pt, pt_user = tables

    def link(table: list[list[int]]) -> int:
        at = next(i for i, each in enumerate(tables) if each is table)
        return KERNEL_TABLES + at * 0x1000 | PRESENT | WRITABLE | USER

    for top, middle, low, last in ((pml4, pdpt, pd, pt), (pml4_user, pdpt_user, pd_user, pt_user)):
        top[0] = link(middle)
        middle[0], middle[3] = link(low), link(pd_high)
        low[0] = link(last)
        for i in range(1, 8):
            low[i] = i << 21 | PRESENT | WRITABLE | USER | LARGE
        for i in range(512):
            last[i] = i << 12 | PRESENT | WRITABLE | USER
    for i in range(512):
        pd_high[i] = 3 << 30 | i << 21 | PRESENT | WRITABLE | USER | LARGE
    for page in range(image.symbols["handler_begin"], image.symbols["handler_end"], 0x1000):
        pt_user[page >> 12] = 0
    return b"".join(entry.to_bytes(8, "little") for table in tables for entry in table)


def machine(image: Image, **options: Any) -> Machine:
    """A machine whose first vCPU will begin with the guest."""
    built = Machine(MachineConfig(16 << 20, **options))
    built.memory.write(image.base, image.flat)
    built.memory.write(KERNEL_TABLES, page_tables(image))
    gdt = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]
    built.memory.write(BOOT_GDT, b"".join(entry.to_bytes(8, "little") for entry in gdt))
    state = CpuState("long", rip=image.base, cr3=KERNEL_TABLES, gdt_base=BOOT_GDT, gdt_limit=31)
    built.set_state(state)
    return built


def map_window(built: Machine, address: int, size: int) -> None:
    """Maps a range above 4 GiB one to one, in whole GiB; its tables take the last pages of the 16 MiB."""
    first, last = address >> 30, (address + size - 1) >> 30
    for gib in range(first, last + 1):
        table = (16 << 20) - (gib - 3) * 0x1000
        entries = [gib << 30 | i << 21 | PRESENT | WRITABLE | USER | LARGE for i in range(512)]
        built.memory.write(table, b"".join(entry.to_bytes(8, "little") for entry in entries))
        for pointers in (KERNEL_TABLES + 0x2000, KERNEL_TABLES + 0x3000):
            entry = table | PRESENT | WRITABLE | USER
            built.memory.write(pointers + gib * 8, entry.to_bytes(8, "little"))


def write(built: Machine, image: Image, name: str, value: int, index: int = 0) -> None:
    """Sets a 64-bit variable of the guest."""
    built.memory.write(image.symbols[name] + index * 8, value.to_bytes(8, "little"))


def read(built: Machine, image: Image, name: str, index: int = 0) -> int:
    """A 64-bit variable of the guest."""
    return int.from_bytes(built.memory.read(image.symbols[name] + index * 8, 8), "little")
