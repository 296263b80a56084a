# SPDX-License-Identifier: Apache-2.0
"""Memory slots of KVM, under guests of a few bytes."""

from __future__ import annotations

import pytest

from pyvmm import kvm
from tests.support.kvm_guest import HLT, SIZE, Guest, address_of


def test_write_to_read_only_memory_exits() -> None:
    # mov eax,[0x100000]; mov [0x100000],eax; hlt
    with Guest(bytes.fromhex("a100001000 a300001000 f4"), "protected") as guest:
        guest.memory[0x3000:0x3004] = b"rom!"
        rom = address_of(guest.memory) + 0x3000
        guest.vm.set_memory_region(1, 0x100000, 0x1000, rom, readonly=True)
        assert guest.run() == kvm.KVM_EXIT_MMIO
        mmio = guest.vcpu.run.mmio
        assert (mmio.phys_addr, mmio.is_write, bytes(mmio.data)[:4]) == (0x100000, 1, b"rom!")
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.memory[0x3000:0x3004] == b"rom!"


def test_deleted_memory_is_gone() -> None:
    with Guest(bytes.fromhex("a100001000 f4"), "protected") as guest:
        guest.vm.set_memory_region(1, 0x100000, 0x1000, address_of(guest.memory))
        guest.vm.delete_memory_region(1)
        assert guest.run() == kvm.KVM_EXIT_MMIO


WRITER = bytes.fromhex("c606000501 c606003002 f4")  # mov byte [0x500],1; mov byte [0x3000],2; hlt


def test_dirty_log() -> None:
    with Guest(WRITER, log_dirty=True) as guest:
        assert guest.run() == kvm.KVM_EXIT_HLT
        bitmap = guest.vm.get_dirty_log(0)
        assert len(bitmap) == SIZE // 4096 // 8
        assert {0, 3} <= set(kvm.dirty_pages(bitmap)) < set(range(8))
        assert not any(guest.vm.get_dirty_log(0))


def test_dirty_log_cleared_by_hand() -> None:
    def by_hand(vm: kvm.Vm) -> None:
        vm.enable_cap(
            kvm.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, kvm.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
        )

    with Guest(WRITER, prepare=by_hand, log_dirty=True) as guest:
        assert guest.run() == kvm.KVM_EXIT_HLT
        bitmap = guest.vm.get_dirty_log(0)
        assert guest.vm.get_dirty_log(0) == bitmap
        guest.vm.clear_dirty_log(0, bitmap)
        assert not any(guest.vm.get_dirty_log(0))


def test_dirty_log_of_other_slots() -> None:
    with Guest(HLT) as guest:
        with pytest.raises(ValueError, match="slot 5 is not set"):
            guest.vm.get_dirty_log(5)
        with pytest.raises(kvm.KvmError, match="log_dirty=True"):
            guest.vm.get_dirty_log(0)
        for first, bits in ((1, 8), (-64, 8), (0, 0), (64, 8)):
            with pytest.raises(ValueError, match="a multiple of 64"):
                guest.vm.clear_dirty_log(0, bytes(bits), first)


def test_dirty_ring() -> None:
    def ring(vm: kvm.Vm) -> None:
        vm.enable_dirty_ring(65536)

    with kvm.Kvm() as host:
        offered = host.check_extension(kvm.KVM_CAP_DIRTY_LOG_RING) or host.check_extension(
            kvm.KVM_CAP_DIRTY_LOG_RING_ACQ_REL
        )
    if not offered:
        with pytest.raises(kvm.KvmCapabilityMissing, match="DIRTY_LOG_RING"):
            Guest(WRITER, prepare=ring)
        return
    with Guest(WRITER, prepare=ring, log_dirty=True) as guest:
        assert guest.run() == kvm.KVM_EXIT_HLT
        pages = guest.vcpu.take_dirty()
        assert {(0, 0), (0, 3)} <= set(pages)
        assert guest.vm.reset_dirty_rings() == len(pages)
        assert guest.vcpu.take_dirty() == []
        with pytest.raises(kvm.KvmError, match="read the rings"):
            guest.vm.get_dirty_log(0)


def test_dirty_ring_of_a_bad_size() -> None:
    with Guest(HLT) as guest:
        for size in (0, 100, 4096 + 8, 1 << 40):
            with pytest.raises((ValueError, kvm.KvmCapabilityMissing)):
                guest.vm.enable_dirty_ring(size)
        with pytest.raises(RuntimeError, match="no dirty ring"):
            guest.vcpu.take_dirty()


def test_coalesced_writes_do_not_exit() -> None:
    with Guest(bytes.fromhex("b041 e680 b042 e680 f4")) as guest:  # 'A' and 'B' to port 0x80
        guest.vm.coalesce(0x80, 1, pio=True)
        assert guest.run() == kvm.KVM_EXIT_HLT
        assert guest.vcpu.take_coalesced() == [(0x80, b"A", True), (0x80, b"B", True)]
        assert guest.vcpu.take_coalesced() == []
    with Guest(bytes.fromhex("b041 e680 f4")) as guest:
        guest.vm.coalesce(0x80, 1, pio=True)
        guest.vm.coalesce(0x80, 1, pio=True, remove=True)
        assert guest.run() == kvm.KVM_EXIT_IO
