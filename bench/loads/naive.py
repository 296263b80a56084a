# SPDX-License-Identifier: Apache-2.0
"""Calls into a guest as one would write them on `pyvmm.kvm` alone: read all registers, set others,
run, set them back.

The same guest as for everything else in the benchmark, one vCPU, and a loop in Python.
"""

from __future__ import annotations

import mmap
import time
from typing import Any

from bench.loads import symguest
from pyvmm import kvm

RETURN_PORT = 0x7E
MARK_PORT = 0xF5
END_PORT = 0x604
IO = kvm.KVM_EXIT_IO


def flat(segment: Any, kind: int, selector: int) -> None:
    code = kind & 8
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.s, segment.g = kind, 1, 1, 1
    segment.dpl = segment.avl = segment.unusable = 0
    segment.l, segment.db = int(bool(code)), int(not code)


class Guest:
    """The guest on a VM of its own."""

    def __init__(self, port: int, flags: int, rounds: int) -> None:
        self.kvm = kvm.Kvm()
        self.vm = self.kvm.create_vm()
        self.memory = mmap.mmap(-1, symguest.SIZE)
        image = symguest.image()
        self.memory[: len(image)] = image
        address = int(kvm.ffi.cast("uintptr_t", kvm.ffi.from_buffer(self.memory)))
        self.vm.set_memory_region(0, 0, symguest.SIZE, address)
        self.vcpu: Any = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid2(self.kvm.supported_cpuid())
        self._set_segments()
        regs = kvm.ffi.new("struct kvm_regs *")
        regs.rip, regs.rsp, regs.rflags = symguest.CODE, symguest.STACK, 2
        regs.rbx, regs.rsi, regs.rdi = rounds, port, flags
        self.vcpu.set_regs(regs)

    def _set_segments(self) -> None:
        sregs = self.vcpu.get_sregs()
        flat(sregs.cs, 0xB, symguest.CS)
        for name in ("ds", "es", "fs", "gs", "ss"):
            flat(getattr(sregs, name), 3, symguest.CS + 8)
        sregs.gdt.base, sregs.gdt.limit = symguest.GDT, symguest.GDT_LIMIT
        sregs.cr0, sregs.cr3, sregs.cr4 = 0x80000011, symguest.TABLES, 1 << 5
        sregs.efer = 1 << 8 | 1 << 10
        self.vcpu.set_sregs(sregs)

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settle(vcpu: kvm.Vcpu) -> None:
    """Complete the port access: RIP is past it then."""
    vcpu.immediate_exit = True
    vcpu.enter()
    vcpu.immediate_exit = False


def call(vcpu: kvm.Vcpu, *args: int) -> tuple[int, ...]:
    """Make the call TEST in the guest, and return RBX, RCX, RDX, RSI, RDI as its handler leaves
    them.
    """
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    there = vcpu.get_sregs()
    flat(there.cs, 0xB, symguest.CS)
    flat(there.ss, 3, symguest.CS + 8)
    there.gs.base = 0
    entry = kvm.ffi.new("struct kvm_regs *")
    entry.rip, entry.rsp, entry.rflags, entry.rax = symguest.ENTRY, symguest.CALL_STACK, 2, 1
    for name, value in zip(("rbx", "rcx", "rdx", "rsi", "rdi"), args, strict=False):
        setattr(entry, name, value)
    vcpu.set_sregs(there)
    vcpu.set_regs(entry)
    vcpu.enter()
    if vcpu.run.exit_reason != IO or vcpu.run.io.port != RETURN_PORT:
        raise RuntimeError(f"exit {vcpu.run.exit_reason} instead of the handler's return")
    results = vcpu.get_regs()
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    return results.rbx, results.rcx, results.rdx, results.rsi, results.rdi


def run(port: int, flags: int, rounds: int, *, calling: bool) -> float:
    """Return seconds from the guest's mark to its end, with a call at each exit or none."""
    with Guest(port, flags, rounds) as guest:
        vcpu = guest.vcpu
        run = vcpu.run
        start = None
        while True:
            vcpu.enter()
            if run.exit_reason != IO:
                raise RuntimeError(f"exit {run.exit_reason} in the guest's loop")
            reached = run.io.port
            if reached == END_PORT:
                assert start is not None
                return time.perf_counter() - start
            if reached == MARK_PORT:
                start = time.perf_counter()
            elif calling:
                if reached != RETURN_PORT:
                    settle(vcpu)
                if call(vcpu, 1)[0] != 2:
                    raise RuntimeError("the handler's answer is wrong")
