# SPDX-License-Identifier: Apache-2.0
"""The symbiotic interface of a machine: SymSpy pages, symcalls and the doorbell, put together."""

from __future__ import annotations

import os

from pyvmm import kvm
from pyvmm._core import ffi, lib
from pyvmm.config import SYMCALL_DEADLINE
from pyvmm.errors import ConfigError
from pyvmm.machine.handle import Handle
from pyvmm.machine.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine.machine import Machine

#: One range for the filter; the few numbers in it that are nobody's give #GP as they would without it.
MSRS = (lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_FS_BASE - lib.MSR_SYMBIOTIC_VM_PAGE + 1)
#: Where the firmware tables are; no guest page may cover them.
FIRMWARE = (0xE0000, 0x20000)

#: Seconds a symcall may take.
DEADLINE = SYMCALL_DEADLINE
LEAST_DEADLINE = 0.008

NEEDED = (
    "KVM_CAP_SYNC_REGS",
    "KVM_CAP_X86_USER_SPACE_MSR",
    "KVM_CAP_X86_MSR_FILTER",
    "KVM_CAP_VCPU_EVENTS",
    "KVM_CAP_IMMEDIATE_EXIT",
)


def missing(vm: Any) -> list[str]:
    """Return the capabilities that the interface needs and this KVM lacks."""
    return [name for name in NEEDED if vm.check_extension(getattr(kvm, name)) <= 0]


def backend_name() -> bytes:
    """Return which virtualization the guest runs on, as the CPUID leaf says it."""
    for module, name in (("kvm_amd", b"SVM\0"), ("kvm_intel", b"VMX\0")):
        if os.path.exists(f"/sys/module/{module}"):
            return name
    return b"KVM\0"


def leaf() -> tuple[int, int, int, int, int]:
    """Return the CPUID leaf: its number, EAX, EBX, ECX, EDX."""
    return (
        lib.SYMBIOTIC_CPUID_LEAF,
        lib.SYMBIOTIC_CPUID_SIGNATURE,
        int.from_bytes(backend_name(), "little"),
        lib.SYMBIOTIC_VERSION,
        lib.SYMBIOTIC_FEATURE_SYMSPY | lib.SYMBIOTIC_FEATURE_SYMCALL,
    )


def check_deadline(deadline: float) -> float:
    """Return the same. Raise ConfigError for what is no time that a symcall may take."""
    if not isinstance(deadline, (int, float)) or not LEAST_DEADLINE <= deadline <= 3600:
        raise ConfigError(f"a symcall deadline of {deadline!r} s: it may be from 0.008 to 3600")
    return deadline


class Symbiosis(Part):
    """The part of it that all vCPUs of a machine share. Made after the vCPUs, closed before them."""

    def __init__(self, machine: Machine, deadline: float, nested: bool) -> None:
        #: In the order in which they were made.
        self._owned: list[Handle] = []
        self._calls: list[Handle] = []
        try:
            self._build(machine, deadline, nested)
        except BaseException:
            self.close()
            raise

    def _build(self, machine: Machine, deadline: float, nested: bool) -> None:
        cpus, board = len(machine.vcpus), machine.board
        hypercalls = self._own(lib.bus_create(), lib.bus_destroy, "the bus of hypercalls")
        spy = lib.symspy_create(machine.memory.pointer, cpus)
        self._spy = self._own(spy, lib.symspy_destroy, "the symbiotic interface")
        done(lib.symspy_reserve(spy, *FIRMWARE))
        bypass = lib.swapbypass_create(spy, machine.memory.pointer, cpus)
        self.bypass = self._own(bypass, lib.swapbypass_destroy, "the swap bypass")
        watch = lib.symcall_watch_create(int(deadline * 1000), cpus)
        debug = max(machine.vm.check_extension(kvm.KVM_CAP_SET_GUEST_DEBUG2), 0)
        setup = ffi.new(
            "struct symcall_setup *",
            {
                "xsave_size": max(machine.vm.check_extension(kvm.KVM_CAP_XSAVE2), 0),
                "can_block_interrupts": bool(debug & kvm.KVM_GUESTDBG_BLOCKIRQ),
                "nested": nested,
                "svm": backend_name() == b"SVM\0",
            },
        )
        owned_watch = Handle(watch, lib.symcall_watch_destroy, "the watch over symcalls")
        for vcpu in machine.vcpus:
            call = lib.symcall_create(vcpu.handle.pointer, spy, watch, setup)
            vcpu.calls = self._own(call, lib.symcall_destroy, "the machine")
            self._calls.append(vcpu.calls)
        self._owned.append(owned_watch)  # its thread looks at the calls, so it goes first
        done(lib.symspy_attach(spy, board.msr))
        done(lib.symcall_attach(board.msr))
        done(lib.doorbell_attach(board.pio, hypercalls.pointer))
        done(lib.swapbypass_attach(bypass, hypercalls.pointer))
        machine.hooks.hypercalls = hypercalls
        machine.hooks.filter_msrs([MSRS])

    def _own(self, pointer: Any, destroy: Callable[[Any], object], what: str) -> Handle:
        handle = Handle(pointer, destroy, what)
        self._owned.append(handle)
        return handle

    def page(self, cpu: int) -> int:
        """Return guest-physical address of a vCPU's SymSpy page, of the VM-wide one for -1; 0 for
        none.
        """
        with self._spy as spy:
            return int(lib.symspy_page(spy, cpu))

    def counters(self) -> dict[str, int]:
        """Return the counters by their names, added up over all vCPUs: those of
        `struct symcall_counters`, and `pages_refused`.
        """
        with self._spy as spy:
            total = {"pages_refused": int(lib.symspy_refused(spy))}
        for handle in self._calls:
            with handle as call:
                counters = lib.symcall_counters(call)
                for name, _ in ffi.typeof("struct symcall_counters").fields:
                    total[name] = total.get(name, 0) + int(getattr(counters, name))
        return total

    def close(self) -> None:
        """Free everything; the vCPUs' threads have ended.

        May be called twice. StateError while a machine has it.
        """
        super().close()
        for handle in reversed(self._owned):
            handle.release()


def done(error: int) -> None:
    """Raise ConfigError if C refused."""
    if error:
        raise ConfigError(f"the symbiotic interface: {os.strerror(-error)}")
