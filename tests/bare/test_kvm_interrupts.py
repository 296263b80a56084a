# SPDX-License-Identifier: Apache-2.0
"""Eventfds and interrupts of KVM, into guests of a few bytes."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm import kvm
from tests.support.kvm_guest import HLT, Guest, handler, with_irqchip

MMIO = 0x200000  # beyond the guest's RAM, within the page tables of a long-mode guest


def test_ioeventfd_on_a_port() -> None:
    # mov dx,0x510; mov ax,7; out dx,ax; mov ax,8; out dx,ax; hlt
    with Guest(bytes.fromhex("ba1005 b80700 ef b80800 ef f4")) as guest:
        bell = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            guest.vm.ioeventfd(bell, 0x510, 2, 7, pio=True)
            with pytest.raises(kvm.KvmError, match="already signals"):
                guest.vm.ioeventfd(bell, 0x510, 2, 7, pio=True)
            assert guest.run() == kvm.KVM_EXIT_IO  # 8 is not ours
            assert bytes(guest.vcpu.io_data()) == b"\x08\x00"
            assert os.eventfd_read(bell) == 1
            guest.vm.ioeventfd(bell, 0x510, 2, 7, pio=True, deassign=True)
            with pytest.raises(kvm.KvmError, match="Nothing is registered"):
                guest.vm.ioeventfd(bell, 0x510, 2, 7, pio=True, deassign=True)
        finally:
            os.close(bell)


def test_ioeventfd_in_memory() -> None:
    # mov [MMIO],eax twice; hlt
    with Guest(bytes.fromhex("a300002000 a300002000 f4"), "protected") as guest:
        bell = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            guest.vm.ioeventfd(bell, MMIO, 4)
            assert guest.run() == kvm.KVM_EXIT_HLT
            assert os.eventfd_read(bell) == 2
        finally:
            os.close(bell)
        with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes"):
            guest.vm.ioeventfd(0, MMIO, 3)


# Master PIC at vector 0x20, line 5 unmasked; tell port 0x10; sti; hlt; and again
LISTENER = bytes.fromhex("b011e620 b020e621 b004e621 b001e621 b0dfe621 e610 fb f4 ebfd")
# End of interrupt; tell port 0x11; iret
ANSWER = bytes.fromhex("b020e620 e611 cf")


def port(guest: Guest) -> int:
    assert guest.run() == kvm.KVM_EXIT_IO
    return int(guest.vcpu.run.io.port)


def test_irqfd_wakes_a_halted_guest() -> None:
    with Guest(LISTENER, prepare=with_irqchip) as guest:
        handler(guest, 0x25, ANSWER)
        assert port(guest) == 0x10
        bell = os.eventfd(0)
        try:
            guest.vm.irqfd(bell, 5)
            later = threading.Timer(0.05, os.eventfd_write, (bell, 1))
            later.start()
            assert port(guest) == 0x11
            later.join()
            with pytest.raises(kvm.KvmError, match="deassign it first"):
                guest.vm.irqfd(bell, 5)
            guest.vm.irqfd(bell, 5, deassign=True)
        finally:
            os.close(bell)


def test_interrupt_line() -> None:
    with Guest(LISTENER, prepare=with_irqchip) as guest:
        handler(guest, 0x25, ANSWER)
        assert port(guest) == 0x10
        guest.vm.irq_line(5, True)
        guest.vm.irq_line(5, False)
        assert port(guest) == 0x11
        assert guest.vm.irq_line_status(5, 1) >= 0
        assert port(guest) == 0x11


def test_irqfd_with_a_resample_eventfd() -> None:
    with Guest(HLT, prepare=with_irqchip) as guest:
        bell, acknowledged = os.eventfd(0), os.eventfd(0)
        try:
            guest.vm.irqfd(bell, 16, acknowledged)
            guest.vm.irqfd(bell, 16, deassign=True)
            with pytest.raises(kvm.KvmError, match="KVM_IRQFD failed: EINVAL"):
                guest.vm.irqfd(guest.vm.fd, 5)
        finally:
            os.close(bell)
            os.close(acknowledged)


def test_message_signalled_interrupt_through_a_route() -> None:
    # sti; hlt; jmp back
    with Guest(bytes.fromhex("fb f4 ebfd"), prepare=with_irqchip) as guest:
        handler(guest, 0x40, bytes.fromhex("e668"))
        lapic = guest.vcpu.get_lapic()
        spurious = kvm.ffi.cast("uint32_t *", lapic.regs + 0xF0)
        spurious[0] |= 0x100  # software enable
        guest.vcpu.set_lapic(lapic)
        assert guest.vm.signal_msi(0xFEE00000, 0x40)
        assert port(guest) == 0x68
    with Guest(bytes.fromhex("fb f4 ebfd"), prepare=with_irqchip) as guest:
        handler(guest, 0x50, bytes.fromhex("e669"))
        guest.vcpu.set_lapic(lapic)
        pins = [kvm.irqchip_route(pin, kvm.KVM_IRQCHIP_IOAPIC, pin) for pin in range(24)]
        guest.vm.set_gsi_routing([*pins, kvm.msi_route(24, 0xFEE00000, 0x50)])
        guest.vm.irq_line(24, 1)
        assert port(guest) == 0x69
        with pytest.raises(kvm.KvmError, match="existing chip and pin"):
            guest.vm.set_gsi_routing([kvm.irqchip_route(1, 9, 1)])


def test_interrupt_by_hand_and_nmi() -> None:
    with Guest(bytes.fromhex("90 90 f4")) as guest:
        handler(guest, 0x30, bytes.fromhex("e630 cf"))
        handler(guest, 2, bytes.fromhex("e602 cf"))
        regs = guest.vcpu.get_regs()
        regs.rflags |= 1 << 9
        guest.vcpu.set_regs(regs)
        guest.vcpu.interrupt(0x30)
        assert port(guest) == 0x30
        guest.vcpu.nmi()
        assert port(guest) == 2
        assert guest.run() == kvm.KVM_EXIT_HLT
        with pytest.raises(kvm.KvmError, match="vector 300"):
            guest.vcpu.interrupt(300)


def test_split_irqchip() -> None:
    def split(vm: kvm.Vm) -> None:
        vm.enable_split_irqchip()

    with Guest(bytes.fromhex("fb f4 ebfd"), prepare=split) as guest:
        handler(guest, 0x40, bytes.fromhex("e640"))
        lapic = guest.vcpu.get_lapic()
        kvm.ffi.cast("uint32_t *", lapic.regs + 0xF0)[0] |= 0x100
        guest.vcpu.set_lapic(lapic)
        assert guest.vm.signal_msi(0xFEE00000, 0x40)
        assert port(guest) == 0x40
        with pytest.raises(kvm.KvmError, match="KVM_GET_IRQCHIP failed: ENXIO"):
            guest.vm.get_irqchip(kvm.KVM_IRQCHIP_IOAPIC)
