# SPDX-License-Identifier: Apache-2.0
"""Every piece of state goes out and comes back; what this KVM lacks is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm import kvm
from pyvmm.kvm import ffi
from tests.support.kvm_guest import HLT, Guest, with_irqchip


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(HLT) as guest:
        yield guest


@pytest.fixture
def equipped() -> Iterator[Guest]:
    with Guest(HLT, prepare=with_irqchip) as guest:
        yield guest


def content(structure: Any) -> bytes:
    return bytes(ffi.buffer(structure))


@pytest.mark.parametrize(
    "name",
    [
        "regs",
        "sregs",
        "sregs2",
        "fpu",
        "xsave",
        "xcrs",
        "debugregs",
        "vcpu_events",
        "lapic",
    ],
)
def test_round_trip(equipped: Guest, name: str) -> None:
    get, put = getattr(equipped.vcpu, f"get_{name}"), getattr(equipped.vcpu, f"set_{name}")
    first = get()
    if name == "xcrs" and not equipped.vm.check_extension(kvm.KVM_CAP_XCRS):
        with pytest.raises(kvm.KvmCapabilityMissing, match="KVM_CAP_XCRS"):
            put(first)
        return
    put(first)
    second = get()
    assert second is not first
    # The local APIC's counter may tick in between.
    assert name == "lapic" or content(second) == content(first)


def test_general_registers(guest: Guest) -> None:
    names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"]
    names += [f"r{number}" for number in range(8, 16)]
    regs = guest.vcpu.get_regs()
    for number, name in enumerate(names):
        setattr(regs, name, 0x0101010101010101 * (number + 1))
    guest.vcpu.set_regs(regs)
    again = guest.vcpu.get_regs()
    assert [getattr(again, name) for name in names] == [getattr(regs, name) for name in names]


def test_control_registers(guest: Guest) -> None:
    for get, put in (
        (guest.vcpu.get_sregs, guest.vcpu.set_sregs),
        (guest.vcpu.get_sregs2, guest.vcpu.set_sregs2),
    ):
        sregs = get()
        sregs.cr2, sregs.gdt.base, sregs.gdt.limit = 0x1234, 0x5000, 0x1F
        put(sregs)
        assert (get().cr2, get().gdt.base, get().gdt.limit) == (0x1234, 0x5000, 0x1F)


def test_impossible_control_registers(guest: Guest) -> None:
    sregs = guest.vcpu.get_sregs()
    sregs.cr0 = 1 << 31  # paging without protection
    with pytest.raises(kvm.KvmError, match="a state that a processor can be in"):
        guest.vcpu.set_sregs(sregs)


def test_floating_point(guest: Guest) -> None:
    fpu = guest.vcpu.get_fpu()
    fpu.xmm[3][0:16] = list(range(16))
    fpu.fcw = 0x27F
    guest.vcpu.set_fpu(fpu)
    again = guest.vcpu.get_fpu()
    assert (list(again.xmm[3]), again.fcw) == (list(range(16)), 0x27F)


def test_extended_state(guest: Guest) -> None:
    xsave = guest.vcpu.get_xsave()
    assert ffi.sizeof(xsave[0]) >= max(guest.vcpu.xsave_size(), 4096)
    # The legacy area has XMM0 at byte 160 (SDM volume 1, 13.4.1); XSTATE_BV says that SSE state is there.
    xsave.region[40] = 0xCAFE
    xsave.region[128] |= 3
    guest.vcpu.set_xsave(xsave)
    assert guest.vcpu.get_xsave().region[40] == 0xCAFE
    assert int.from_bytes(bytes(guest.vcpu.get_fpu().xmm[0])[:4], "little") == 0xCAFE


def test_extended_state_too_small(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    xsave = guest.vcpu.get_xsave()
    monkeypatch.setattr(kvm.Vcpu, "xsave_size", lambda self: 1 << 20)
    with pytest.raises(ValueError, match="has 1048576 bytes, not"):
        guest.vcpu.set_xsave(xsave)


def test_extended_control_register(guest: Guest) -> None:
    xcrs = guest.vcpu.get_xcrs()
    if not guest.vm.check_extension(kvm.KVM_CAP_XCRS):  # a processor without XSAVE
        assert xcrs.nr_xcrs == 0
        return
    assert xcrs.nr_xcrs == 1
    xcrs.xcrs[0].value = 3
    guest.vcpu.set_xcrs(xcrs)
    assert guest.vcpu.get_xcrs().xcrs[0].value == 3


def test_debug_registers(guest: Guest) -> None:
    debugregs = guest.vcpu.get_debugregs()
    debugregs.db = [1, 2, 3, 4]
    guest.vcpu.set_debugregs(debugregs)
    assert list(guest.vcpu.get_debugregs().db) == [1, 2, 3, 4]


def test_pending_events(guest: Guest) -> None:
    guest.vcpu.nmi()
    events = guest.vcpu.get_vcpu_events()
    assert events.nmi.pending or events.nmi.injected
    events.nmi.pending = events.nmi.injected = 0
    events.flags |= kvm.KVM_VCPUEVENT_VALID_NMI_PENDING
    guest.vcpu.set_vcpu_events(events)
    assert not guest.vcpu.get_vcpu_events().nmi.pending
    assert guest.run() == kvm.KVM_EXIT_HLT


def test_running_state(equipped: Guest) -> None:
    assert equipped.vcpu.get_mp_state() == kvm.KVM_MP_STATE_RUNNABLE
    equipped.vcpu.set_mp_state(kvm.KVM_MP_STATE_HALTED)
    assert equipped.vcpu.get_mp_state() == kvm.KVM_MP_STATE_HALTED
    with equipped.vm.create_vcpu(1) as second:
        assert second.get_mp_state() == kvm.KVM_MP_STATE_UNINITIALIZED


@pytest.mark.parametrize(
    "call",
    [
        lambda vm, vcpu: vcpu.set_mp_state(kvm.KVM_MP_STATE_HALTED),
        lambda vm, vcpu: vcpu.get_lapic(),
        lambda vm, vcpu: vm.get_irqchip(kvm.KVM_IRQCHIP_PIC_MASTER),
        lambda vm, vcpu: vm.get_pit2(),
        lambda vm, vcpu: vm.irq_line(5, 1),
        lambda vm, vcpu: vm.irq_line_status(5, 1),
        lambda vm, vcpu: vm.signal_msi(0xFEE00000, 0x40),
        lambda vm, vcpu: vm.create_irqchip(),  # too late
        lambda vm, vcpu: vm.enable_split_irqchip(),  # too late
    ],
)
def test_what_needs_controllers(guest: Guest, call: Any) -> None:
    with pytest.raises(kvm.KvmError) as caught:
        call(guest.vm, guest.vcpu)
    assert caught.value.remedy
    assert type(caught.value) is kvm.KvmError


def test_what_comes_too_late_or_twice(equipped: Guest) -> None:
    vm = equipped.vm
    for call in (
        vm.create_irqchip,
        vm.create_pit2,
        lambda: vm.set_identity_map_addr(0xFFFBC000),
        lambda: vm.set_boot_cpu_id(1),
        lambda: vm.create_vcpu(0),
        lambda: vm.create_vcpu(1 << 20),
        lambda: equipped.vcpu.interrupt(3),
    ):
        with pytest.raises(kvm.KvmError) as caught:
            call()
        assert caught.value.remedy
    with pytest.raises(kvm.KvmError, match="below 4 GiB"):
        vm.set_tss_addr(0xFFFFF000)


def test_interrupt_controllers(equipped: Guest) -> None:
    for chip in range(kvm.KVM_NR_IRQCHIPS):
        state = equipped.vm.get_irqchip(chip)
        assert state.chip_id == chip
        equipped.vm.set_irqchip(state)
        assert content(equipped.vm.get_irqchip(chip)) == content(state)
    ioapic = equipped.vm.get_irqchip(kvm.KVM_IRQCHIP_IOAPIC)
    assert ioapic.chip.ioapic.redirtbl[4].fields.mask == 1
    ioapic.chip.ioapic.redirtbl[4].fields.vector = 0x44
    equipped.vm.set_irqchip(ioapic)
    again = equipped.vm.get_irqchip(kvm.KVM_IRQCHIP_IOAPIC)
    assert again.chip.ioapic.redirtbl[4].bits & 0xFF == 0x44


def test_timer(equipped: Guest) -> None:
    state = equipped.vm.get_pit2()
    state.channels[2].mode = 3
    equipped.vm.set_pit2(state)
    assert equipped.vm.get_pit2().channels[2].mode == 3
    equipped.vm.set_pit_reinjection(False)


# MSRs


def test_msrs(guest: Guest) -> None:
    guest.vcpu.set_msrs({kvm.msr.SYSENTER_CS: 0x10, kvm.msr.SYSENTER_EIP: 0x1234})
    wanted = [kvm.msr.SYSENTER_EIP, kvm.msr.SYSENTER_CS]
    assert guest.vcpu.get_msrs(wanted) == {
        kvm.msr.SYSENTER_EIP: 0x1234,
        kvm.msr.SYSENTER_CS: 0x10,
    }
    assert guest.vcpu.get_msrs([]) == {}


def test_msrs_name_the_first_refused(guest: Guest) -> None:
    with pytest.raises(kvm.KvmMsrRefused) as caught:
        guest.vcpu.get_msrs([kvm.msr.TSC, 0xDEAD, 0xBEEF])
    assert (caught.value.index, caught.value.done) == (0xDEAD, 1)
    with pytest.raises(kvm.KvmMsrRefused) as caught:
        guest.vcpu.set_msrs({kvm.msr.SYSENTER_CS: 0x18, 0xDEAD: 1, kvm.msr.SYSENTER_EIP: 1})
    assert (caught.value.index, caught.value.done) == (0xDEAD, 1)
    assert guest.vcpu.get_msrs([kvm.msr.SYSENTER_CS]) == {kvm.msr.SYSENTER_CS: 0x18}
    with pytest.raises(kvm.KvmMsrRefused):
        guest.kvm.get_feature_msrs([0xDEAD])


def test_listed_msrs_can_be_read(guest: Guest) -> None:
    indices = guest.kvm.msr_index_list()
    assert kvm.msr.TSC in indices
    readable = 0
    for index in indices:
        try:
            readable += len(guest.vcpu.get_msrs([index]))
        except kvm.KvmMsrRefused:
            pass  # listed for the host, and not offered to this guest
    assert readable > len(indices) // 2
    features = guest.kvm.msr_feature_list()
    assert set(guest.kvm.get_feature_msrs(features)) == set(features)


# CPUID


def test_cpuid(guest: Guest) -> None:
    supported = guest.kvm.supported_cpuid()
    assert supported.nent > 10
    assert kvm.find_cpuid(supported, 0).eax >= 1
    assert guest.vcpu.get_cpuid2().nent == supported.nent
    assert guest.kvm.emulated_cpuid().nent >= 0


def test_cpuid_is_fixed_once_run(guest: Guest) -> None:
    assert guest.run() == kvm.KVM_EXIT_HLT
    with pytest.raises(kvm.KvmError, match="cannot change any more"):
        guest.vcpu.set_cpuid2([{"function": 0, "eax": 1}])


# Time


def test_time_stamp_counter(guest: Guest) -> None:
    first = guest.vcpu.get_tsc()
    assert guest.vcpu.get_tsc() > first
    khz = guest.vcpu.get_tsc_khz()
    assert khz > 100_000
    guest.vcpu.set_tsc_khz(khz)
    if not guest.kvm.check_extension(kvm.KVM_CAP_TSC_CONTROL):
        with pytest.raises(kvm.KvmCapabilityMissing, match="TSC_CONTROL"):
            guest.vcpu.set_tsc_khz(khz // 2)


def test_time_stamp_rate_of_the_vm() -> None:
    with kvm.Kvm() as host, host.create_vm() as vm:
        khz = vm.get_tsc_khz()
        vm.set_tsc_khz(khz)
        assert vm.get_tsc_khz() == khz


def test_time_stamp_offset(guest: Guest) -> None:
    if not guest.vm.check_extension(kvm.KVM_CAP_VCPU_ATTRIBUTES):
        with pytest.raises(kvm.KvmCapabilityMissing, match="VCPU_ATTRIBUTES"):
            guest.vcpu.get_tsc_offset()
        return
    guest.vcpu.set_tsc_offset(-1000)
    # A KVM without an offset in hardware accepts and ignores it.
    assert guest.vcpu.get_tsc_offset() in (0, 2**64 - 1000)


def test_paravirtual_clock(guest: Guest) -> None:
    clock = guest.vm.get_clock()
    new = ffi.new("struct kvm_clock_data *", {"clock": clock.clock + 10**12})
    guest.vm.set_clock(new)
    assert guest.vm.get_clock().clock >= clock.clock + 10**12
    with pytest.raises(kvm.KvmError, match="not turned on a kvmclock"):
        guest.vcpu.kvmclock_ctrl()


# What may be missing


def test_nested_state(guest: Guest) -> None:
    if guest.vcpu.nested_state_size:
        state = guest.vcpu.get_nested_state()
        assert len(state) >= ffi.sizeof("struct kvm_nested_state")
        guest.vcpu.set_nested_state(state)
        with pytest.raises(ValueError, match="too few"):
            guest.vcpu.set_nested_state(state[:10])
        with pytest.raises(ValueError, match="says 4294967295 bytes"):
            guest.vcpu.set_nested_state(state[:4] + b"\xff\xff\xff\xff" + state[8:])
    else:
        for call in (guest.vcpu.get_nested_state, lambda: guest.vcpu.set_nested_state(bytes(128))):
            with pytest.raises(kvm.KvmCapabilityMissing, match="NESTED_STATE"):
                call()


def test_system_management_interrupt(guest: Guest) -> None:
    if guest.vm.check_extension(kvm.KVM_CAP_X86_SMM):
        guest.vcpu.smi()
        assert guest.vcpu.get_vcpu_events().smi.pending
    else:
        with pytest.raises(kvm.KvmCapabilityMissing, match="X86_SMM"):
            guest.vcpu.smi()


def test_statistics(guest: Guest) -> None:
    for owner, word in ((guest.vm, b"kvm-"), (guest.vcpu, b"vcpu-")):
        if guest.vm.check_extension(kvm.KVM_CAP_BINARY_STATS_FD):
            fd = owner.stats_fd()
            try:
                assert word in os.pread(fd, 256, 0)
            finally:
                os.close(fd)
        else:
            with pytest.raises(kvm.KvmCapabilityMissing, match="BINARY_STATS_FD"):
                owner.stats_fd()


def test_capabilities(guest: Guest) -> None:
    vm, vcpu = guest.vm, guest.vcpu
    assert guest.kvm.check_extension(kvm.KVM_CAP_NR_MEMSLOTS) > 1
    assert vm.require(kvm.KVM_CAP_USER_MEMORY, "memory") > 0
    assert vcpu.check_extension(kvm.KVM_CAP_USER_MEMORY) > 0
    for owner in (vm, vcpu):
        with pytest.raises(kvm.KvmCapabilityMissing, match="KVM_CAP number 9999"):
            owner.enable_cap(9999)
        with pytest.raises(kvm.KvmCapabilityMissing, match="KVM_CAP number 9999, needed for tests"):
            owner.require(9999, "tests")
    vm.enable_cap(kvm.KVM_CAP_X86_USER_SPACE_MSR, kvm.KVM_MSR_EXIT_REASON_FILTER)
    with pytest.raises(kvm.KvmError, match=r"X86_USER_SPACE_MSR\(1048576,\).*too late"):
        vm.enable_cap(kvm.KVM_CAP_X86_USER_SPACE_MSR, 1 << 20)
    for capability in (kvm.KVM_CAP_EXCEPTION_PAYLOAD, kvm.KVM_CAP_X86_TRIPLE_FAULT_EVENT):
        if vm.check_extension(capability):
            vm.enable_cap(capability, 1)
        else:
            with pytest.raises(kvm.KvmCapabilityMissing):
                vm.enable_cap(capability, 1)


def test_halt_without_exits() -> None:
    with kvm.Kvm() as host, host.create_vm() as vm:
        offered = vm.check_extension(kvm.KVM_CAP_X86_DISABLE_EXITS)
        if offered & kvm.KVM_X86_DISABLE_EXITS_HLT:
            vm.enable_cap(kvm.KVM_CAP_X86_DISABLE_EXITS, kvm.KVM_X86_DISABLE_EXITS_HLT)
        with pytest.raises(kvm.KvmError, match="X86_DISABLE_EXITS"):
            vm.enable_cap(kvm.KVM_CAP_X86_DISABLE_EXITS, 1 << 31)
