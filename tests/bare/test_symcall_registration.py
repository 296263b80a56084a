# SPDX-License-Identifier: Apache-2.0
"""Registers of the symbiotic interface that a guest writes: refused at once, or when it is called."""

from __future__ import annotations

import pytest

from pyvmm._core import lib
from tests.support import remote
from tests.support.remote import Remote

#: On VT-x exceptions and state go through VMCS fields of other rules.
pytestmark = pytest.mark.host("linux", "vmx", "shadow", rest=True)

NOT_CANONICAL = 0x8000_0000_0000_0000


REFUSED_AT_ONCE = [
    (lib.MSR_SYMBIOTIC_RIP, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_RSP, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_GS_BASE, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_FS_BASE, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_CS, 0x3C),  # of the LDT
    (lib.MSR_SYMBIOTIC_CS, 0x3B),  # for CPL 3
    (lib.MSR_SYMBIOTIC_CS, 0x10038),
    (lib.MSR_SYMBIOTIC_CS, 1 << 63),
    (lib.MSR_SYMBIOTIC_CR3_CLEAR, 1 << 63),
    (lib.MSR_SYMBIOTIC_PROMISES, 2),
    (lib.MSR_SYMBIOTIC_PROMISES, 1 << 63),
]


@pytest.mark.parametrize(
    ("index", "value"), REFUSED_AT_ONCE, ids=[f"{i:x}-{v:x}" for i, v in REFUSED_AT_ONCE]
)
def test_registers_that_are_refused_at_once(guest: Remote, index: int, value: int) -> None:
    before = guest.rdmsr(index)
    assert not guest.wrmsr(index, value)
    assert guest.rdmsr(index) == before
    assert guest.counters() == {"msr_refused": 1}
    assert guest.works()


REFUSED_AT_THE_CALL = [
    (lib.MSR_SYMBIOTIC_RIP, 1 << 47),  # canonical with five levels of page tables only
    (lib.MSR_SYMBIOTIC_RSP, 0),
    (lib.MSR_SYMBIOTIC_RSP, 1 << 55),
    (lib.MSR_SYMBIOTIC_GS_BASE, 1 << 47),
    (lib.MSR_SYMBIOTIC_FS_BASE, 1 << 55),
    (lib.MSR_SYMBIOTIC_CS, 0),
    (lib.MSR_SYMBIOTIC_CS, 0xFFF8),  # beyond the GDT
    (lib.MSR_SYMBIOTIC_CS, 0x78),  # its last descriptor: SS would be beyond
]


@pytest.mark.parametrize(
    ("index", "value"), REFUSED_AT_THE_CALL, ids=[f"{i:x}-{v:x}" for i, v in REFUSED_AT_THE_CALL]
)
def test_registers_that_no_call_can_be_entered_with(guest: Remote, index: int, value: int) -> None:
    right = guest.rdmsr(index)
    assert right is not None
    assert guest.wrmsr(index, value)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "invalid"
    assert guest.counters() == {"refused_invalid": 1}
    assert guest.goes_on()
    assert guest.wrmsr(index, right)
    assert guest.works()


@pytest.mark.parametrize("index", [lib.MSR_SYMBIOTIC_RIP, lib.MSR_SYMBIOTIC_RSP])
def test_an_entry_that_is_not_mapped(guest: Remote, index: int) -> None:
    """The page fault is the guest's own affair: its kernel reports it."""
    right = guest.rdmsr(index)
    assert right is not None
    assert guest.wrmsr(index, 0x7000_0000_0000)
    # A call without the stack uses none in TEST; this one pushes.
    error = guest.refusal(remote.RETURNS_FROM_USER)
    assert error.reason == "error"
    assert error.code in (1014, 1008)
    assert guest.wrmsr(index, right)
    assert guest.works()


def test_nothing_registered(guest: Remote) -> None:
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, 0)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "absent"
    assert guest.counters() == {"refused_absent": 1}


def test_registered_in_long_mode_and_called_in_another(guest: Remote) -> None:
    """The vCPU is put into 32-bit code without paging, as a kernel that starts another one does."""
    machine, vcpu = guest.machine, guest.machine.vcpus[0].kvm
    loop = 0x8000
    machine.memory.write(loop, b"\xff\x05\x00\x90\x00\x00\xeb\xf8")  # 1: inc [0x9000]; jmp 1b
    machine.pause()
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    short, flat = vcpu.get_regs(), vcpu.get_sregs()
    short.rip, short.rflags = loop, 2
    flat.cr0 &= ~(1 << 31)
    flat.cr4 &= ~(1 << 5)
    flat.efer = 0
    flat.cs.l, flat.cs.db, flat.cs.limit = 0, 1, 0xFFFFFFFF
    vcpu.set_sregs(flat)
    vcpu.set_regs(short)
    machine.resume()
    for _ in range(3):
        assert guest.refusal(lib.SYMCALL_TEST).reason == "invalid"
    assert guest.counters() == {"refused_invalid": 3}
    assert int.from_bytes(machine.memory.read(0x9000, 4), "little")
    machine.pause()
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    machine.resume()
    assert guest.works()
