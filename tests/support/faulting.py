# SPDX-License-Identifier: Apache-2.0
"""A guest that puts faults of swapped pages before the VMM, and the reasons that it is given."""

from __future__ import annotations

import random
import zlib
from typing import Any, NamedTuple

from pyvmm._core import lib
from pyvmm.machine.memory import GIB, MIB, PAGE
from pyvmm.swap.store import SLOT
from tests.support import guest64
from tests.support.remote_swap import SwapGuest

MAPPED, MODE, SLOT_, POLICY, LOOKUP, PTE, RACE = range(7)
#: A GiB that the guest leaves to processes; its tables lie in free memory.
VADDR = GIB + 3 * PAGE
DIRECTORY, TABLE = 0x600000, 0x601000
ENTRY = TABLE + 3 * 8
#: A swap entry as Linux has them: not present, nonzero.
OLD = 0xFFFF_FFF0_0000_00A2 & ~1
#: Present, writable, user, accessed, dirty, no execution; the frame is to be ignored.
PROPOSED = 1 << 63 | 0x67 | 0x0008_7654_3210_F000 & 0x000F_FFFF_FFFF_F000
EFER_NXE = 1 << 11
READ, WRITE, EXECUTE = (
    lib.SYMBIOTIC_ACCESS_READ,
    lib.SYMBIOTIC_ACCESS_WRITE,
    lib.SYMBIOTIC_ACCESS_EXECUTE,
)
SWAPPED = 5


class Fault(NamedTuple):
    """What the guest says to 0x5003."""

    vaddr: int = VADDR
    slot: int = SWAPPED
    old: int = OLD
    proposed: int = PROPOSED


class Faulting(SwapGuest):
    """A guest that has swapped out a page and attached, with page tables for VADDR."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        vcpu = self.machine.vcpus[0].kvm
        sregs = vcpu.get_sregs()
        sregs.efer |= EFER_NXE
        vcpu.set_sregs(sregs)

    def start(self) -> Faulting:
        super().start()
        self.page = random.Random(1).randbytes(SLOT)
        self.swap_out(SWAPPED, self.page)
        assert self.attach() == lib.SYMBIOTIC_HYPERCALL_DONE
        link = guest64.PRESENT | guest64.WRITABLE | guest64.USER
        memory = self.machine.memory
        for pointers in (guest64.KERNEL_TABLES + 0x2000, guest64.KERNEL_TABLES + 0x3000):
            memory.write(pointers + 8, (DIRECTORY | link).to_bytes(8, "little"))
        memory.write(DIRECTORY, (TABLE | link).to_bytes(8, "little"))
        self.prepare()
        return self

    def prepare(self, entry: int = ENTRY, permissions: int = READ | WRITE | EXECUTE) -> None:
        """The entry is a swap entry, and the guest will tell the truth, or what is given."""
        self.machine.memory.write(ENTRY, OLD.to_bytes(8, "little"))
        self.answer(VADDR, entry, permissions)

    def answer(self, *words: int) -> None:
        for i, word in enumerate(words):
            self.set_value("lookup_answer", word, i)

    def offer(self, fault: Fault = Fault()) -> int:  # noqa: B008
        """The reason that the VMM gives."""
        rax, rbx, *rest = self.ring(lib.SYMBIOTIC_SWAP_MAP, *fault)
        assert rax == lib.SYMBIOTIC_HYPERCALL_DONE
        assert rest == [fault.slot, fault.old, fault.proposed, 0]
        return rbx

    @property
    def entry(self) -> int:
        return int.from_bytes(self.machine.memory.read(ENTRY, 8), "little")

    def others(self, *, entry: bool = True) -> int:
        """A checksum of all RAM but the guest's own variables, and page tables but TABLE, in which the processor
        sets bits; without `entry` but ENTRY, too.

        Of the memory where it is: a copy of 16 MiB takes the thread sanitizer a second, and is a race to it
        with a disk that next writes to its rings.
        """
        left_out = [
            (self.image.base, self.image.end),
            (guest64.KERNEL_TABLES, guest64.KERNEL_TABLES + 9 * PAGE),
            (DIRECTORY, DIRECTORY + PAGE),
            (16 * MIB - 8 * PAGE, 16 * MIB),
            *([] if entry else [(ENTRY, ENTRY + 8)]),
        ]
        checksum = at = 0
        for start, end in sorted(left_out):
            checksum = zlib.crc32(self.machine.memory.view(at, start - at), checksum)
            at = end
        assert at == self.machine.memory.ram[0].size
        return checksum
