# SPDX-License-Identifier: Apache-2.0
"""Guests of a few bytes and the exits they cause, on whatever /dev/kvm this machine has; without one it fails."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pyvmm import kvm
from tests.support.kvm_guest import CODE, HLT, Guest, handler

MMIO = 0x200000  # beyond the guest's RAM, within the page tables of a long-mode guest
LIMIT = 30  # seconds for what takes milliseconds: inside an emulated machine time is scarce


def test_port_output_and_input() -> None:
    # mov dx,0x3f8; mov al,'A'; out dx,al; in al,dx; mov [0x500],al; hlt
    with Guest(bytes.fromhex("baf803 b041 ee ec a20005 f4")) as guest:
        run = guest.vcpu.run
        assert guest.run() == kvm.KVM_EXIT_IO
        assert (run.io.direction, run.io.port) == (kvm.KVM_EXIT_IO_OUT, 0x3F8)
        assert (run.io.size, run.io.count) == (1, 1)
        assert bytes(guest.vcpu.io_data()) == b"A"
        assert guest.run() == kvm.KVM_EXIT_IO
        assert run.io.direction == kvm.KVM_EXIT_IO_IN
        guest.vcpu.io_data()[:] = b"Z"
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.memory[0x500:0x501] == b"Z"


def test_string_output() -> None:
    # mov si,0x600; mov cx,4; mov dx,0x3f8; rep outsb; hlt
    with Guest(bytes.fromhex("be0006 b90400 baf803 f36e f4")) as guest:
        guest.memory[0x600:0x604] = b"text"
        seen = b""
        while guest.run() == kvm.KVM_EXIT_IO:
            seen += bytes(guest.vcpu.io_data())
        assert seen == b"text"


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        # mov eax,0x12345678; mov [MMIO],eax; mov ecx,[MMIO+4]; hlt
        ("protected", "b878563412 a300002000 8b0d04002000 f4"),
        ("long", "b878563412 890425 00002000 8b0c25 04002000 f4"),
    ],
)
def test_mmio(mode: str, code: str) -> None:
    with Guest(bytes.fromhex(code), mode) as guest:
        mmio = guest.vcpu.run.mmio
        assert guest.run() == kvm.KVM_EXIT_MMIO
        assert (mmio.phys_addr, mmio.len, mmio.is_write) == (MMIO, 4, 1)
        assert bytes(mmio.data)[:4] == bytes.fromhex("78563412")
        assert guest.run() == kvm.KVM_EXIT_MMIO
        assert (mmio.phys_addr, mmio.len, mmio.is_write) == (MMIO + 4, 4, 0)
        mmio.data = list((0xDEADBEEF).to_bytes(8, "little"))
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.vcpu.get_regs().rcx == 0xDEADBEEF


def test_halt() -> None:
    with Guest(HLT) as guest:
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.vcpu.get_regs().rip == CODE + 1


def test_triple_fault_shuts_down() -> None:
    with Guest(bytes.fromhex("0f0b"), "protected") as guest:  # ud2, and no room for a handler
        sregs = guest.vcpu.get_sregs()
        sregs.idt.limit = 0
        guest.vcpu.set_sregs(sregs)
        assert guest.run() == kvm.KVM_EXIT_SHUTDOWN


def test_translate() -> None:
    with Guest(HLT, "long") as guest:
        assert guest.vcpu.translate(0x1234) == 0x1234
        assert guest.vcpu.translate(0x40000000) is None


def test_cpuid_is_what_was_set() -> None:
    # mov eax,0x40000777... a leaf of our own; cpuid; hlt
    with Guest(bytes.fromhex("66b877070040 0fa2 f4")) as guest:
        table = guest.vcpu.get_cpuid2()
        rows = [table.entries[i] for i in range(table.nent)]
        rows.append({"function": 0x40000777, "eax": 1, "ebx": 2, "ecx": 3, "edx": 4})
        guest.vcpu.set_cpuid2(rows)
        assert guest.run() == kvm.KVM_EXIT_HLT
        regs = guest.vcpu.get_regs()
        assert (regs.rax, regs.rbx, regs.rcx, regs.rdx) == (1, 2, 3, 4)


# MSRs


def trap_msrs(vm: kvm.Vm) -> None:
    reasons = kvm.KVM_MSR_EXIT_REASON_FILTER | kvm.KVM_MSR_EXIT_REASON_UNKNOWN
    vm.enable_cap(kvm.KVM_CAP_X86_USER_SPACE_MSR, reasons)
    vm.set_msr_filter([kvm.MsrRange(0x174, 1, write=False), kvm.MsrRange(0x534, 8)])


def test_msr_exits() -> None:
    # mov ecx,0x534; mov eax,0x11223344; mov edx,0x55; wrmsr; rdmsr; mov ecx,0x12345; rdmsr; hlt
    code = "66b934050000 66b844332211 66ba55000000 0f30 0f32 66b945230100 0f32 f4"
    with Guest(bytes.fromhex(code), prepare=trap_msrs) as guest:
        msr = guest.vcpu.run.msr
        assert guest.run() == kvm.KVM_EXIT_X86_WRMSR
        assert (msr.reason, msr.index) == (kvm.KVM_MSR_EXIT_REASON_FILTER, 0x534)
        assert msr.data == 0x5511223344
        assert guest.run() == kvm.KVM_EXIT_X86_RDMSR
        assert msr.index == 0x534
        msr.data = 0xAABBCCDD00112233
        assert guest.run() == kvm.KVM_EXIT_X86_RDMSR
        assert (msr.reason, msr.index) == (kvm.KVM_MSR_EXIT_REASON_UNKNOWN, 0x12345)
        regs = guest.vcpu.get_regs()
        assert (regs.rax, regs.rdx) == (0x112233, 0xAABBCCDD)
        assert guest.run() == kvm.KVM_EXIT_HLT


def test_msr_filter_by_direction() -> None:
    # mov ecx,0x174; mov eax,7; xor edx,edx; wrmsr (allowed); rdmsr (filtered); hlt
    code = "66b974010000 66b807000000 6631d2 0f30 0f32 f4"
    with Guest(bytes.fromhex(code), prepare=trap_msrs) as guest:
        assert guest.run() == kvm.KVM_EXIT_X86_RDMSR
        assert guest.vcpu.run.msr.index == 0x174
        assert guest.vcpu.get_msrs([0x174]) == {0x174: 7}


def test_refused_msr_faults_in_the_guest() -> None:
    # mov ecx,0x534; rdmsr; hlt -- and the handler of #GP: out 0x0d,al
    with Guest(bytes.fromhex("66b934050000 0f32 f4"), prepare=trap_msrs) as guest:
        handler(guest, kvm.GP_VECTOR, bytes.fromhex("e60d"))
        assert guest.run() == kvm.KVM_EXIT_X86_RDMSR
        guest.vcpu.run.msr.error = 1
        assert guest.run() == kvm.KVM_EXIT_IO
        assert guest.vcpu.run.io.port == 0x0D


def test_filter_removed() -> None:
    with Guest(bytes.fromhex("66b974010000 0f32 f4"), prepare=trap_msrs) as guest:
        guest.vm.set_msr_filter()
        assert guest.run() == kvm.KVM_EXIT_HLT


def test_filter_of_too_many_ranges() -> None:
    with Guest(HLT) as guest, pytest.raises(ValueError, match="at most 16 ranges, not 17"):
        guest.vm.set_msr_filter([kvm.MsrRange(i) for i in range(17)])


# Coming back


LOOP = bytes.fromhex("ebfe")


@pytest.mark.host("vmx", "shadow")
def test_immediate_exit() -> None:
    with Guest(LOOP) as guest:
        guest.vcpu.immediate_exit = True
        assert guest.vcpu.immediate_exit
        assert guest.vcpu.enter() == errno.EINTR
        assert guest.vcpu.get_regs().rip == CODE


def test_immediate_exit_completes_a_pending_input() -> None:
    with Guest(bytes.fromhex("e410 f4")) as guest:  # in al,0x10; hlt
        assert guest.run() == kvm.KVM_EXIT_IO
        guest.vcpu.io_data()[:] = b"\x5a"
        guest.vcpu.immediate_exit = True
        assert guest.vcpu.enter() == errno.EINTR
        regs = guest.vcpu.get_regs()
        assert (regs.rip, regs.rax & 0xFF) == (CODE + 2, 0x5A)


@pytest.mark.host("vmx", "shadow")
def test_a_signal_interrupts() -> None:
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    # Again and again: the first may come before the guest is entered.
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with Guest(LOOP) as guest:
            assert guest.vcpu.enter() == errno.EINTR
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_signal_mask() -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with Guest(LOOP) as guest:
            guest.vcpu.set_signal_mask([signal.SIGUSR2])
            os.kill(os.getpid(), signal.SIGUSR1)  # pending in the thread, deliverable in the guest
            assert guest.vcpu.enter() == errno.EINTR
            assert signal.SIGUSR1 in signal.sigpending()
            with pytest.raises(ValueError, match="no signal 65"):
                guest.vcpu.set_signal_mask([65])
        with Guest(HLT) as guest:
            guest.vcpu.set_signal_mask([])
            guest.vcpu.set_signal_mask(None)
            assert guest.vcpu.enter() == 0
    finally:
        signal.sigtimedwait({signal.SIGUSR1}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_the_interpreter_runs_while_the_guest_does() -> None:
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    results: list[int] = []
    try:
        with Guest(LOOP) as guest:
            thread = threading.Thread(target=lambda: results.append(guest.vcpu.enter()))
            thread.start()
            time.sleep(0.05)  # would hang here if the GIL were held
            deadline = time.monotonic() + LIMIT
            while thread.is_alive() and time.monotonic() < deadline:
                guest.vcpu.immediate_exit = True
                signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
                thread.join(0.05)
            assert results == [errno.EINTR]
    finally:
        signal.signal(signal.SIGUSR1, old)


# Registers at an exit


@pytest.mark.host("vmx", "shadow")
def test_sync_regs() -> None:
    with Guest(bytes.fromhex("b85634 e710 e710 f4")) as guest:  # mov ax,0x3456; out 0x10,ax twice
        vcpu = guest.vcpu
        vcpu.sync_valid = kvm.KVM_SYNC_X86_REGS | kvm.KVM_SYNC_X86_SREGS
        assert vcpu.sync_valid == kvm.KVM_SYNC_X86_REGS | kvm.KVM_SYNC_X86_SREGS
        assert guest.run() == kvm.KVM_EXIT_IO
        assert vcpu.sync_regs.regs.rax & 0xFFFF == 0x3456
        assert vcpu.sync_regs.regs.rip == vcpu.get_regs().rip
        assert vcpu.sync_regs.sregs.cr0 == vcpu.get_sregs().cr0
        vcpu.sync_regs.regs.rax = 0x789A
        vcpu.sync_dirty = kvm.KVM_SYNC_X86_REGS
        assert guest.run() == kvm.KVM_EXIT_IO
        assert vcpu.sync_dirty == 0
        assert bytes(vcpu.io_data()) == b"\x9a\x78"


def test_sync_of_unknown_registers() -> None:
    with Guest(HLT) as guest, pytest.raises(kvm.KvmCapabilityMissing, match="SYNC_REGS"):
        guest.vcpu.sync_valid = 1 << 40


def test_single_step() -> None:
    with Guest(bytes.fromhex("40 40 40 f4")) as guest:
        guest.vcpu.set_guest_debug(kvm.KVM_GUESTDBG_ENABLE | kvm.KVM_GUESTDBG_SINGLESTEP)
        for step in (1, 2, 3):
            assert guest.run() == kvm.KVM_EXIT_DEBUG
            arch = guest.vcpu.run.debug.arch
            assert (arch.exception, arch.pc) == (kvm.DB_VECTOR, CODE + step)
        guest.vcpu.set_guest_debug(0)
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.vcpu.get_regs().rax == 3


def test_hardware_breakpoint() -> None:
    with Guest(bytes.fromhex("40 40 40 f4")) as guest:
        registers = [0] * 8
        registers[0], registers[7] = CODE + 2, 0x402  # break on executing the address in DR0
        control = kvm.KVM_GUESTDBG_ENABLE | kvm.KVM_GUESTDBG_USE_HW_BP
        guest.vcpu.set_guest_debug(control, registers)
        reason = guest.run()
        if "QEMU TCG" in Path("/proc/cpuinfo").read_text():
            # This emulated processor does not arm the breakpoints that VMRUN loads.
            assert reason in (kvm.KVM_EXIT_DEBUG, kvm.KVM_EXIT_HLT)
            return
        assert reason == kvm.KVM_EXIT_DEBUG
        assert guest.vcpu.run.debug.arch.pc == CODE + 2


def test_io_data_of_another_exit() -> None:
    with Guest(HLT) as guest:
        assert guest.run() == kvm.KVM_EXIT_HLT
        with pytest.raises(RuntimeError, match="not a port access"):
            guest.vcpu.io_data()  # whatever of an earlier exit stands there
        guest.vcpu.run.exit_reason = kvm.KVM_EXIT_IO
        guest.vcpu.run.io.size, guest.vcpu.run.io.count = 8, 0xFFFFFFFF
        with pytest.raises(RuntimeError, match="not a port access"):
            guest.vcpu.io_data()


def test_two_vcpus() -> None:
    def run(vcpu: kvm.Vcpu, results: list[Any]) -> None:
        results.append((vcpu.id, vcpu.enter(), vcpu.run.exit_reason))

    with Guest(HLT) as guest, guest.vm.create_vcpu(1) as second:
        second.set_sregs(guest.vcpu.get_sregs())
        second.set_regs(guest.vcpu.get_regs())
        results: list[Any] = []
        threads = [
            threading.Thread(target=run, args=(vcpu, results)) for vcpu in (guest.vcpu, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sorted(results) == [(0, 0, kvm.KVM_EXIT_HLT), (1, 0, kvm.KVM_EXIT_HLT)]
