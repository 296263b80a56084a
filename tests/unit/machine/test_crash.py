# SPDX-License-Identifier: Apache-2.0
"""The crash dump of made-up vCPUs: what it says, and that nothing a guest leaves behind stops it."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import kvm
from pyvmm.machine import crash
from pyvmm.machine.memory import GuestMemory

PG, PE, PAE, LMA, LME = 1 << 31, 1, 1 << 5, 1 << 10, 1 << 8
BASE = 0xFFFFFFFF80000000


class Vcpu:
    """A vCPU that only has registers and an exit."""

    def __init__(self) -> None:
        self.run = kvm.ffi.new("struct kvm_run *")
        self.run.exit_reason = kvm.lib.KVM_EXIT_SHUTDOWN
        self.regs = kvm.ffi.new("struct kvm_regs *")
        self.sregs = kvm.ffi.new("struct kvm_sregs *")

    def get_regs(self):
        return self.regs

    def get_sregs(self):
        return self.sregs


@pytest.fixture(scope="module")
def memory():
    with_memory = GuestMemory(1 << 20)
    yield with_memory
    with_memory.close()


@pytest.fixture
def vcpu():
    return Vcpu()


@pytest.fixture
def long_mode(vcpu, memory):
    """A kernel at -2 GiB: 2 MiB at BASE map physical 0; UD2 at BASE + 0x8000, a stack at BASE + 0x9000."""
    for table, index, value in (
        (0x1000, 511, 0x2003),
        (0x2000, 510, 0x3003),
        (0x3000, 0, 0x00E3),
    ):
        memory.write(table + 8 * index, struct.pack("<Q", value))
    memory.write(0x7FE0, b"\x90" * 32 + b"\x0f\x0b\xeb\xfe" + b"\x90" * 64)
    memory.write(0x9000, struct.pack("<16Q", *range(0x1000, 0x1010)))
    s = vcpu.sregs
    s.cr0, s.cr3, s.cr4, s.efer = PG | PE, 0x1000, PAE, LMA | LME
    s.cs.l = s.cs.s = s.cs.present = 1
    s.cs.type, s.cs.selector = 0xB, 0x10
    vcpu.regs.rip, vcpu.regs.rsp, vcpu.regs.rflags = BASE + 0x8000, BASE + 0x9000, 0x10046
    vcpu.regs.r15 = 0x123456789ABCDEF0
    return vcpu


def test_long_mode(long_mode, memory):
    text = crash.dump(long_mode, memory)
    for wanted in (
        "exit: shutdown",
        "mode: 64-bit code",
        "rip ffffffff80008000  rflags 00010046 [PF ZF RF IOPL=0]",
        "r15 123456789abcdef0",
        "cs  0010  base 0000000000000000  limit 00000000  code 64-bit dpl 0",
        "[PE PG]",
        "[LME LMA]",
        "page walk of rip 0xffffffff80008000 (4-level):",
        "PML4[511]  at 000000001ff8: 0000000000002003 present write",
        "PD[0]      at 000000003000: 00000000000000e3 present write accessed dirty large",
        "-> guest-physical 0x8000, page of 2048 KiB",
        "90 90 <0f> 0b eb fe 90",
        "ffffffff80008000: ud2",
        "ffffffff80008002: jmp 0xffffffff80008002",
        "0000000000001000 0000000000001001",
    ):
        assert wanted in text, text
    assert "dump failed" not in text
    assert "cr2 0x" not in text


def test_cr2_is_walked_too(long_mode, memory):
    long_mode.sregs.cr2 = 0xFFFF888000000000
    text = crash.dump(long_mode, memory)
    assert "page walk of cr2 0xffff888000000000" in text
    assert "not mapped: the PML4 entry is not present" in text


def test_code_that_is_not_mapped(long_mode, memory):
    long_mode.regs.rip = 0x1000
    text = crash.dump(long_mode, memory)
    assert "<??> ??" in text
    assert "the code at rip cannot be read" in text


def test_code_across_the_end_of_memory(vcpu, memory):
    vcpu.sregs.cr0, vcpu.sregs.cs.db = PE, 1
    memory.write(0xFFFFE, b"\x90\x90")
    vcpu.regs.rip = 0xFFFFE
    text = crash.dump(vcpu, memory)
    assert "<90> 90 ?? ??" in text
    assert text.count("nop") == 2


def test_real_mode(vcpu, memory):
    memory.write(0x12345, b"\xb8\x34\x12\xf4")
    vcpu.sregs.cs.base, vcpu.regs.rip = 0x12340, 5
    vcpu.sregs.ss.base, vcpu.regs.rsp = 0x20000, 0xFFFF_0010
    memory.write(0x20010, b"\x01\x02\x03\x04")
    text = crash.dump(vcpu, memory)
    for wanted in (
        "mode: 16-bit",
        "(paging off)",
        "-> guest-physical 0x12345",
        "5: mov ax, 0x1234",
        "8: hlt",
        "stack at 0x20010:",
        "  0201 0403",
    ):
        assert wanted in text, text


def test_reset_state_is_explained(vcpu, memory):
    vcpu.regs.rip, vcpu.sregs.cs.base = 0xFFF0, 0xFFFF0000
    assert "registers of a reset" in crash.dump(vcpu, memory)


def test_emulation_failure(vcpu, memory):
    vcpu.run.exit_reason = kvm.lib.KVM_EXIT_INTERNAL_ERROR
    failure = vcpu.run.emulation_failure
    failure.suberror, failure.ndata, failure.flags, failure.insn_size = 1, 4, 1, 15
    for i in range(15):
        failure.insn_bytes[i] = 0xF0 + i
    text = crash.dump(vcpu, memory)
    assert "suberror 1: an instruction that KVM cannot emulate" in text
    assert "instruction bytes: f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 fa fb fc fd fe\n" in text


def test_delivery_error(vcpu, memory):
    vcpu.run.exit_reason = kvm.lib.KVM_EXIT_INTERNAL_ERROR
    error = vcpu.run.internal
    error.suberror, error.ndata = 3, 3
    error.data[0:3] = [0x80000B0E, 49, 0x181]
    text = crash.dump(vcpu, memory)
    assert "event: 0x80000b0e\n  exit reason: 0x31\n  exit qualification: 0x181" in text


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        (0x80000021, "VT-x: invalid guest state"),
        (0x8000FFFF, "VT-x: unknown reason"),
        (7, "VT-x: instruction error, invalid control fields"),
        (0xFFFFFFFF, "SVM: invalid guest state"),
        (2**64 - 1, "SVM: invalid guest state"),
    ],
)
def test_entry_failure(vcpu, memory, reason, meaning):
    vcpu.run.exit_reason = kvm.lib.KVM_EXIT_FAIL_ENTRY
    vcpu.run.fail_entry.hardware_entry_failure_reason = reason
    assert f"{reason:#x} ({meaning})" in crash.dump(vcpu, memory)


def test_without_capstone(long_mode, memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "capstone", None)
    text = crash.dump(long_mode, memory)
    assert "pyvmm-kvm[disasm]" in text
    assert "stack at" in text


def test_registers_that_cannot_be_had(vcpu, memory, monkeypatch):
    def fail():
        raise OSError(5, "gone")

    monkeypatch.setattr(vcpu, "get_sregs", fail)
    assert "registers: [Errno 5] gone" in crash.dump(vcpu, memory)


@given(
    st.binary(min_size=144, max_size=144),
    st.binary(min_size=512, max_size=512),
    st.binary(min_size=300, max_size=300),
    st.booleans(),
)
def test_any_state_is_dumped(regs, sregs, run, paging):
    guest = Vcpu()
    memory = GuestMemory(1 << 20)
    try:
        for target, data in ((guest.regs, regs), (guest.sregs, sregs), (guest.run, run)):
            size = kvm.ffi.sizeof(target[0])
            kvm.ffi.memmove(target, (data * 8)[:size], min(size, len(data) * 8))
        guest.run.exit_reason = kvm.lib.KVM_EXIT_INTERNAL_ERROR
        if not paging:
            guest.sregs.cr0 &= ~PG
        guest.sregs.cr3 &= 0xFF000
        memory.write(0, run * 3000)
        text = crash.dump(guest, memory)
    finally:
        memory.close()
    assert "dump failed" not in text
    assert len(text.splitlines()) < 100
