# SPDX-License-Identifier: Apache-2.0
"""Bindings of /dev/kvm: `Kvm` makes a `Vm`, a `Vm` makes a `Vcpu`; each owns one descriptor.

    from pyvmm import kvm

    with kvm.Kvm() as host, host.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        regs = vcpu.get_regs()

Structures are cffi data of the kernel's own layout (`ffi.new("struct kvm_regs *")`). The constants
of <linux/kvm.h> are attributes of this module and of `lib`: `kvm.KVM_EXIT_IO`.
"""

from __future__ import annotations

from pyvmm.kvm import msr
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.cpuid import find_cpuid, new_cpuid
from pyvmm.kvm.errors import (
    KvmBusy,
    KvmCapabilityMissing,
    KvmError,
    KvmMsrRefused,
    KvmPermission,
    KvmUnavailable,
    error_of,
)
from pyvmm.kvm.interrupts import irqchip_route, msi_route
from pyvmm.kvm.msr import MsrRange
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.kvm.vm import Vm, dirty_pages

__all__ = [
    "Kvm",
    "KvmBusy",
    "KvmCapabilityMissing",
    "KvmError",
    "KvmMsrRefused",
    "KvmPermission",
    "KvmUnavailable",
    "MsrRange",
    "Vcpu",
    "Vm",
    "dirty_pages",
    "error_of",
    "ffi",
    "find_cpuid",
    "irqchip_route",
    "lib",
    "msi_route",
    "msr",
    "new_cpuid",
]


def __getattr__(name: str) -> int:
    # Constants are looked up when first used: there are hundreds, and a start-up needs a dozen.
    if name.isupper() or name.startswith("KVM_"):
        try:
            value = getattr(lib, name)
        except AttributeError:
            pass
        else:
            globals()[name] = value
            return int(value)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(lib) if name.isupper())})
