# SPDX-License-Identifier: Apache-2.0
"""The part of a vCPU that reads and writes its state, one structure at a time.

Each getter returns a new structure; each setter takes one of the same type, as the getter gave it
or as `ffi.new("struct kvm_regs *")` makes it. The vCPU must not be running meanwhile: the kernel
makes the call wait.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.cpuid import new_cpuid, read_cpuid
from pyvmm.kvm.descriptor import Descriptor, checked
from pyvmm.kvm.msr import TSC, read_msrs, write_msrs

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any


class State(Descriptor):
    """The state ioctls of a vCPU descriptor.

    Each raises KvmError where KVM refuses, KvmCapabilityMissing where this KVM lacks the ioctl.
    api.rst, "vcpu ioctls", has a section of each name.
    """

    # Registers

    def get_regs(self) -> Any:
        """Return a `struct kvm_regs *`: general registers, RIP and RFLAGS (KVM_GET_REGS)."""
        regs = ffi.new("struct kvm_regs *")
        checked(lib.kvm_get_regs(self.fd, regs), "KVM_GET_REGS")
        return regs

    def set_regs(self, regs: Any) -> None:
        """Write a `struct kvm_regs *` (KVM_SET_REGS). A pending exception is dropped by it."""
        checked(lib.kvm_set_regs(self.fd, regs), "KVM_SET_REGS")

    def get_sregs(self) -> Any:
        """Return a `struct kvm_sregs *`: segments, descriptor tables, control registers, EFER, APIC
        base (KVM_GET_SREGS).
        """
        sregs = ffi.new("struct kvm_sregs *")
        checked(lib.kvm_get_sregs(self.fd, sregs), "KVM_GET_SREGS")
        return sregs

    def set_sregs(self, sregs: Any) -> None:
        """Write a `struct kvm_sregs *` (KVM_SET_SREGS)."""
        checked(lib.kvm_set_sregs(self.fd, sregs), "KVM_SET_SREGS")

    def get_sregs2(self) -> Any:
        """Return a `struct kvm_sregs2 *`: as sregs, with the PDPTRs and without the interrupt
        bitmap (KVM_GET_SREGS2).
        """
        sregs = ffi.new("struct kvm_sregs2 *")
        result = lib.kvm_get_sregs2(self.fd, sregs)
        self._offered(result, "KVM_GET_SREGS2", lib.KVM_CAP_SREGS2, "reading PDPTRs")
        return sregs

    def set_sregs2(self, sregs: Any) -> None:
        """Write a `struct kvm_sregs2 *` (KVM_SET_SREGS2)."""
        result = lib.kvm_set_sregs2(self.fd, sregs)
        self._offered(result, "KVM_SET_SREGS2", lib.KVM_CAP_SREGS2, "writing PDPTRs")

    def translate(self, gva: int) -> int | None:
        """Return the guest-physical address behind a guest-virtual one now, or None
        (KVM_TRANSLATE).
        """
        walk = ffi.new("struct kvm_translation *", {"linear_address": gva})
        checked(lib.kvm_translate(self.fd, walk), "KVM_TRANSLATE")
        return int(walk.physical_address) if walk.valid else None

    # Floating point and extended state

    def get_fpu(self) -> Any:
        """Return a `struct kvm_fpu *`: x87 and SSE (KVM_GET_FPU)."""
        fpu = ffi.new("struct kvm_fpu *")
        checked(lib.kvm_get_fpu(self.fd, fpu), "KVM_GET_FPU")
        return fpu

    def set_fpu(self, fpu: Any) -> None:
        """Write a `struct kvm_fpu *` (KVM_SET_FPU)."""
        checked(lib.kvm_set_fpu(self.fd, fpu), "KVM_SET_FPU")

    def xsave_size(self) -> int:
        """Return the size of the XSAVE area in bytes: 4096, more with dynamic features, 0 where KVM
        knows only the fixed size.
        """
        return self.check_extension(lib.KVM_CAP_XSAVE2)

    def get_xsave(self) -> Any:
        """Return a `struct kvm_xsave *` as large as this VM needs (KVM_GET_XSAVE2, KVM_GET_XSAVE on
        old kernels).
        """
        size = self.xsave_size()
        plain = ffi.sizeof("struct kvm_xsave")
        xsave = ffi.new("struct kvm_xsave *", {"extra": max(size - plain, 0) // 4})
        if size:
            checked(lib.kvm_get_xsave2(self.fd, xsave), "KVM_GET_XSAVE2")
        else:
            result = lib.kvm_get_xsave(self.fd, xsave)
            self._offered(result, "KVM_GET_XSAVE", lib.KVM_CAP_XSAVE, "extended state")
        return xsave

    def set_xsave(self, xsave: Any) -> None:
        """Write a `struct kvm_xsave *`, at least as large as get_xsave gives (KVM_SET_XSAVE).

        The layout is that of XSAVE: Intel SDM volume 1, chapter 13.
        """
        size = self.xsave_size()
        if ffi.sizeof(xsave[0]) < size:
            raise ConfigError(
                f"an XSAVE area of this VM has {size} bytes, not {ffi.sizeof(xsave[0])}: "
                "start from what get_xsave gives"
            )
        result = lib.kvm_set_xsave(self.fd, xsave)
        self._offered(result, "KVM_SET_XSAVE", lib.KVM_CAP_XSAVE, "extended state")

    def get_xcrs(self) -> Any:
        """Return a `struct kvm_xcrs *`: XCR0 (KVM_GET_XCRS)."""
        xcrs = ffi.new("struct kvm_xcrs *")
        result = lib.kvm_get_xcrs(self.fd, xcrs)
        self._offered(result, "KVM_GET_XCRS", lib.KVM_CAP_XCRS, "XCR0")
        return xcrs

    def set_xcrs(self, xcrs: Any) -> None:
        """Write a `struct kvm_xcrs *` (KVM_SET_XCRS). CPUID must offer the features first."""
        result = lib.kvm_set_xcrs(self.fd, xcrs)
        self._offered(result, "KVM_SET_XCRS", lib.KVM_CAP_XCRS, "XCR0")

    # Events

    def get_vcpu_events(self) -> Any:
        """Return a `struct kvm_vcpu_events *`: pending and injected exceptions, interrupts, NMI,
        SMI, shadow (KVM_GET_VCPU_EVENTS).
        """
        events = ffi.new("struct kvm_vcpu_events *")
        checked(lib.kvm_get_vcpu_events(self.fd, events), "KVM_GET_VCPU_EVENTS")
        return events

    def set_vcpu_events(self, events: Any) -> None:
        """Write a `struct kvm_vcpu_events *`; its `flags` say which of the optional fields count
        (KVM_SET_VCPU_EVENTS).
        """
        checked(lib.kvm_set_vcpu_events(self.fd, events), "KVM_SET_VCPU_EVENTS")

    def get_mp_state(self) -> int:
        """Return one of KVM_MP_STATE_: runnable, halted, waiting for INIT or SIPI
        (KVM_GET_MP_STATE).
        """
        state = ffi.new("struct kvm_mp_state *")
        checked(lib.kvm_get_mp_state(self.fd, state), "KVM_GET_MP_STATE")
        return int(state.mp_state)

    def set_mp_state(self, value: int) -> None:
        """Set one of KVM_MP_STATE_ (KVM_SET_MP_STATE); others than runnable need a local APIC in the
        kernel.
        """
        state = ffi.new("struct kvm_mp_state *", {"mp_state": value})
        checked(lib.kvm_set_mp_state(self.fd, state), "KVM_SET_MP_STATE", f"state {value}")

    def get_lapic(self) -> Any:
        """Return a `struct kvm_lapic_state *`: the local APIC's registers, as in its memory page
        (KVM_GET_LAPIC; Intel SDM volume 3, "Local APIC Register Address Map").
        """
        lapic = ffi.new("struct kvm_lapic_state *")
        checked(lib.kvm_get_lapic(self.fd, lapic), "KVM_GET_LAPIC")
        return lapic

    def set_lapic(self, lapic: Any) -> None:
        """Write a `struct kvm_lapic_state *` (KVM_SET_LAPIC)."""
        checked(lib.kvm_set_lapic(self.fd, lapic), "KVM_SET_LAPIC")

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt by hand; only without a local APIC in the kernel
        (KVM_INTERRUPT).
        """
        request = ffi.new("struct kvm_interrupt *", {"irq": vector})
        checked(lib.kvm_inject_interrupt(self.fd, request), "KVM_INTERRUPT", f"vector {vector}")

    def nmi(self) -> None:
        """Queue a non-maskable interrupt (KVM_NMI)."""
        checked(lib.kvm_inject_nmi(self.fd), "KVM_NMI")

    def smi(self) -> None:
        """Queue a system management interrupt (KVM_SMI)."""
        result = lib.kvm_inject_smi(self.fd)
        self._offered(result, "KVM_SMI", lib.KVM_CAP_X86_SMM, "system management mode")

    # Debugging

    def get_debugregs(self) -> Any:
        """Return a `struct kvm_debugregs *`: the guest's own DR0 to DR3, DR6, DR7
        (KVM_GET_DEBUGREGS).
        """
        debugregs = ffi.new("struct kvm_debugregs *")
        checked(lib.kvm_get_debugregs(self.fd, debugregs), "KVM_GET_DEBUGREGS")
        return debugregs

    def set_debugregs(self, debugregs: Any) -> None:
        """Write a `struct kvm_debugregs *` (KVM_SET_DEBUGREGS)."""
        checked(lib.kvm_set_debugregs(self.fd, debugregs), "KVM_SET_DEBUGREGS")

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """Debug the guest from outside: KVM_GUESTDBG_ bits, and up to 8 debug registers for
        hardware breakpoints.

        Control 0 turns it off. Hits exit with KVM_EXIT_DEBUG (KVM_SET_GUEST_DEBUG).
        """
        request = ffi.new("struct kvm_guest_debug *", {"control": control})
        for i, value in enumerate(debugreg):
            request.arch.debugreg[i] = value
        result = lib.kvm_set_guest_debug(self.fd, request)
        self._offered(
            result, "KVM_SET_GUEST_DEBUG", lib.KVM_CAP_SET_GUEST_DEBUG, "debugging the guest"
        )

    # MSRs and CPUID

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Return the values of MSRs, by index (KVM_GET_MSRS).

        Raise KvmMsrRefused, naming the first that KVM does not give.
        """
        return read_msrs(self.fd, indices)

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Write MSRs, by index, in order (KVM_SET_MSRS).

        Raise KvmMsrRefused, naming the first refused; those before it are written.
        """
        write_msrs(self.fd, values)

    def get_cpuid2(self) -> Any:
        """Return a `struct kvm_cpuid2 *` of what the guest sees (KVM_GET_CPUID2)."""
        return read_cpuid(self.fd, lib.kvm_get_cpuid2, "KVM_GET_CPUID2")

    def set_cpuid2(self, table: Any) -> None:
        """Set what the guest sees: a `struct kvm_cpuid2 *`, or entries that `new_cpuid` accepts
        (KVM_SET_CPUID2).
        """
        if not isinstance(table, ffi.CData) or ffi.typeof(table) is not ffi.typeof(
            "struct kvm_cpuid2 *"
        ):
            table = new_cpuid(table)
        checked(lib.kvm_set_cpuid2(self.fd, table), "KVM_SET_CPUID2")

    # Time

    def get_tsc(self) -> int:
        """Return the guest's time-stamp counter now, in its own cycles (by MSR_IA32_TSC)."""
        return self.get_msrs((TSC,))[TSC]

    def get_tsc_khz(self) -> int:
        """Return the rate of this vCPU's time-stamp counter, in kHz (KVM_GET_TSC_KHZ)."""
        result = lib.kvm_get_tsc_khz(self.fd)
        return self._offered(result, "KVM_GET_TSC_KHZ", lib.KVM_CAP_GET_TSC_KHZ, "the TSC's rate")

    def set_tsc_khz(self, khz: int) -> None:
        """Set the rate, in kHz (KVM_SET_TSC_KHZ). One far from the host's needs KVM_CAP_TSC_CONTROL.

        KVM remembers a rate that it refused: get_tsc_khz then reports it, although the counter does
        not run at it.
        """
        result = lib.kvm_set_tsc_khz(self.fd, khz)
        self._offered(result, "KVM_SET_TSC_KHZ", lib.KVM_CAP_TSC_CONTROL, "another TSC rate")

    def _tsc_offset(self, request: Any, ioctl: str, value: Any) -> None:
        attr = ffi.new("struct kvm_device_attr *")
        attr.group = lib.KVM_VCPU_TSC_CTRL
        attr.attr = lib.KVM_VCPU_TSC_OFFSET
        attr.addr = int(ffi.cast("uintptr_t", value))
        result = request(self.fd, attr)
        self._offered(result, ioctl, lib.KVM_CAP_VCPU_ATTRIBUTES, "the TSC's offset")

    def get_tsc_offset(self) -> int:
        """Return what KVM adds to the host's counter, modulo 2**64 (KVM_VCPU_TSC_OFFSET)."""
        value = ffi.new("__u64 *")
        self._tsc_offset(lib.kvm_get_device_attr, "KVM_GET_DEVICE_ATTR", value)
        return int(value[0])

    def set_tsc_offset(self, offset: int) -> None:
        """Set what KVM adds to the host's counter, modulo 2**64 (KVM_VCPU_TSC_OFFSET)."""
        value = ffi.new("__u64 *", offset & 0xFFFFFFFFFFFFFFFF)
        self._tsc_offset(lib.kvm_set_device_attr, "KVM_SET_DEVICE_ATTR", value)

    def kvmclock_ctrl(self) -> None:
        """Tell the guest that it was paused, so that its watchdogs keep calm.

        Raise KvmError with EINVAL when it has no kvmclock (KVM_KVMCLOCK_CTRL).
        """
        checked(lib.kvm_kvmclock_ctrl(self.fd), "KVM_KVMCLOCK_CTRL")
