# SPDX-License-Identifier: Apache-2.0
"""Model-specific registers: their numbers, reading and writing them by list, and the filter.

Numbers: Intel SDM volume 4, AMD APM volume 2 appendix A, Documentation/virt/kvm/x86/msr.rst.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.descriptor import checked
from pyvmm.kvm.errors import KvmMsrRefused

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

TSC = 0x10
APIC_BASE = 0x1B
FEATURE_CONTROL = 0x3A
TSC_ADJUST = 0x3B
SPEC_CTRL = 0x48
MTRR_CAP = 0xFE
ARCH_CAPABILITIES = 0x10A
SYSENTER_CS = 0x174
SYSENTER_ESP = 0x175
SYSENTER_EIP = 0x176
MCG_CAP = 0x179
MISC_ENABLE = 0x1A0
DEBUGCTL = 0x1D9
PAT = 0x277
MTRR_DEF_TYPE = 0x2FF
TSC_DEADLINE = 0x6E0
X2APIC_FIRST = 0x800
X2APIC_LAST = 0x8FF
XSS = 0xDA0
EFER = 0xC0000080
STAR = 0xC0000081
LSTAR = 0xC0000082
CSTAR = 0xC0000083
SYSCALL_MASK = 0xC0000084
FS_BASE = 0xC0000100
GS_BASE = 0xC0000101
KERNEL_GS_BASE = 0xC0000102
TSC_AUX = 0xC0000103
VM_CR = 0xC0010114
KVM_WALL_CLOCK = 0x4B564D00
KVM_SYSTEM_TIME = 0x4B564D01
KVM_ASYNC_PF_EN = 0x4B564D02
KVM_STEAL_TIME = 0x4B564D03
KVM_EOI_EN = 0x4B564D04
KVM_POLL_CONTROL = 0x4B564D05

EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
EFER_SVME = 1 << 12

# Memory type range registers come as base and mask, one after the other.
MTRR_PHYS_BASE_FIRST = 0x200


def read_msrs(fd: int, indices: Iterable[int]) -> dict[int, int]:
    """Read MSRs by KVM_GET_MSRS: values of 64 bits, by index.

    Raise KvmMsrRefused at the first MSR that KVM does not have.
    """
    wanted = list(indices)
    table = ffi.new("struct kvm_msrs *", {"entries": [{"index": index} for index in wanted]})
    table.nmsrs = len(wanted)
    done = checked(lib.kvm_get_msrs(fd, table), "KVM_GET_MSRS")
    if done < len(wanted):
        raise KvmMsrRefused("KVM_GET_MSRS", wanted[done], done)
    return {index: table.entries[i].data for i, index in enumerate(wanted)}


def write_msrs(fd: int, values: Mapping[int, int]) -> None:
    """Write MSRs by KVM_SET_MSRS: values of 64 bits, by index, in the mapping's order.

    Raise KvmMsrRefused at the first MSR that KVM refuses; those before it are written.
    """
    rows = [{"index": index, "data": value} for index, value in values.items()]
    table = ffi.new("struct kvm_msrs *", {"nmsrs": len(rows), "entries": rows})
    done = checked(lib.kvm_set_msrs(fd, table), "KVM_SET_MSRS")
    if done < len(rows):
        raise KvmMsrRefused("KVM_SET_MSRS", rows[done]["index"], done)


class MsrRange:
    """`count` MSRs from `base` on, for Vm.set_msr_filter.

    `allow` has one bit an MSR, lowest bit first: 1 lets KVM handle the access, 0 denies it. None
    denies all of them. With KVM_MSR_EXIT_REASON_FILTER enabled, a denied access exits to user space
    instead of faulting in the guest.
    """

    __slots__ = ("allow", "base", "count", "read", "write")

    def __init__(
        self,
        base: int,
        count: int = 1,
        *,
        read: bool = True,
        write: bool = True,
        allow: bytes | None = None,
    ) -> None:
        size = (count + 7) // 8
        if not 0 < size <= lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE:
            most = lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8
            raise ConfigError(
                f"an MSR range holds 1 to {most} MSRs, not {count}: use several ranges"
            )
        if not 0 <= base <= 0x1_0000_0000 - count:
            raise ConfigError(f"MSR range {base:#x}+{count} leaves the 32-bit MSR numbers")
        if not (read or write):
            raise ConfigError(f"MSR range {base:#x}+{count} covers neither reads nor writes")
        if allow is not None and len(allow) < size:
            raise ConfigError(
                f"the bitmap of MSR range {base:#x}+{count} has {len(allow)} bytes, it needs {size}"
            )
        self.base = base
        self.count = count
        self.read = read
        self.write = write
        self.allow = bytes(size) if allow is None else bytes(allow[:size])

    def fill(self, row: Any) -> Any:
        """Write a `struct kvm_msr_filter_range`; return the bitmap, which must live as long as the
        row.
        """
        bitmap = ffi.from_buffer("__u8[]", self.allow)
        row.flags = (lib.KVM_MSR_FILTER_READ if self.read else 0) | (
            lib.KVM_MSR_FILTER_WRITE if self.write else 0
        )
        row.base = self.base
        row.nmsrs = self.count
        row.bitmap = bitmap
        return bitmap
