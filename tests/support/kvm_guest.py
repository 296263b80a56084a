# SPDX-License-Identifier: Apache-2.0
"""Guests of a few bytes for the tests of pyvmm.kvm: memory, one vCPU, machine code, and what it exits with."""

from __future__ import annotations

import mmap
from typing import Any

from pyvmm import kvm

CODE = 0x1000
STACK = 0x8000
TABLES = 0x9000  # page tables of a long-mode guest: three pages
SIZE = 0x40000
HLT = b"\xf4"


class Guest:
    """A VM with `SIZE` bytes of RAM at 0 and one vCPU that starts at `CODE`.

    `prepare(vm)` runs before the vCPU is made, for what must precede it.
    """

    def __init__(
        self, code: bytes, mode: str = "real", *, prepare: Any = None, log_dirty: bool = False
    ) -> None:
        self.kvm = kvm.Kvm()
        self.vm = self.kvm.create_vm()
        self.memory = mmap.mmap(-1, SIZE)
        self.memory[CODE : CODE + len(code)] = code
        if prepare is not None:
            prepare(self.vm)
        self.vm.set_memory_region(0, 0, SIZE, address_of(self.memory), log_dirty=log_dirty)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid2(self.kvm.supported_cpuid())
        {"real": set_real, "protected": set_protected, "long": self._set_long}[mode](self.vcpu)
        regs = self.vcpu.get_regs()
        regs.rip, regs.rsp, regs.rflags = CODE, STACK, 2
        self.vcpu.set_regs(regs)

    def _set_long(self, vcpu: kvm.Vcpu) -> None:
        for level in range(2):
            at = TABLES + level * 0x1000
            self.memory[at : at + 8] = (at + 0x1000 | 3).to_bytes(8, "little")
        for page in range(4):  # 8 MiB one to one, in pages of 2 MiB
            at = TABLES + 0x2000 + page * 8
            self.memory[at : at + 8] = (page << 21 | 0x83).to_bytes(8, "little")
        set_long(vcpu)

    def run(self) -> int:
        """Enters the guest, through interruptions, until it exits; the reason."""
        while self.vcpu.enter():
            pass
        return int(self.vcpu.run.exit_reason)

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def handler(guest: Guest, vector: int, code: bytes) -> None:
    """A real-mode interrupt handler."""
    at = 0x2000 + vector * 16
    guest.memory[at : at + len(code)] = code
    guest.memory[vector * 4 : vector * 4 + 4] = at.to_bytes(4, "little")


def with_irqchip(vm: kvm.Vm) -> None:
    """For Guest(prepare=...): interrupt controllers and timer in the kernel."""
    vm.set_identity_map_addr(0xFFFBC000)
    vm.set_tss_addr(0xFFFBD000)
    vm.create_irqchip()
    vm.create_pit2(kvm.KVM_PIT_SPEAKER_DUMMY)


def address_of(memory: mmap.mmap) -> int:
    # The view is dropped at once: the mapping stays as long as `memory` does.
    return int(kvm.ffi.cast("uintptr_t", kvm.ffi.from_buffer(memory)))


def set_real(vcpu: kvm.Vcpu) -> None:
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)


def flat(segment: Any, kind: int, selector: int, *, long: bool = False) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.s, segment.g = kind, 1, 1, 1
    segment.dpl = segment.avl = segment.unusable = 0
    segment.l, segment.db = long, not long


def set_protected(vcpu: kvm.Vcpu) -> None:
    sregs = vcpu.get_sregs()
    sregs.cr0 |= 1
    flat(sregs.cs, 11, 0x10)
    for name in ("ds", "es", "fs", "gs", "ss"):
        flat(getattr(sregs, name), 3, 0x18)
    vcpu.set_sregs(sregs)


def set_long(vcpu: kvm.Vcpu) -> None:
    sregs = vcpu.get_sregs()
    sregs.cr3 = TABLES
    sregs.cr4 |= 1 << 5  # PAE
    sregs.efer |= kvm.msr.EFER_LME | kvm.msr.EFER_LMA
    sregs.cr0 |= 1 << 31 | 1
    flat(sregs.cs, 11, 0x10, long=True)
    for name in ("ds", "es", "fs", "gs", "ss"):
        flat(getattr(sregs, name), 3, 0x18)
    vcpu.set_sregs(sregs)
