# SPDX-License-Identifier: Apache-2.0
"""What KVM refuses, and what to do about it.

Every failure of /dev/kvm becomes one of these by `error_of`, which names the ioctl, the errno and the remedy. All
are `OSError`s with `errno` set.
"""

from __future__ import annotations

import errno as _errno
from os import strerror

from pyvmm.errors import HostError


class KvmError(HostError):
    """An ioctl on a KVM descriptor failed. `ioctl`, `errno`, `detail` and `remedy` say which, how and what next."""

    def __init__(self, ioctl: str, errno: int, remedy: str = "", detail: str = "") -> None:
        super().__init__(errno, strerror(errno))
        self.ioctl = ioctl
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno or 0, str(self.errno))
        text = f"{self.ioctl} failed: {name} ({self.strerror})"
        if self.detail:
            text += f": {self.detail}"
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.ioctl, self.errno, self.remedy, self.detail)


class KvmUnavailable(KvmError):
    """There is no usable KVM device node."""


class KvmPermission(KvmError, PermissionError):
    """The device node exists and this process may not open it."""


class KvmBusy(KvmError):
    """Another hypervisor holds the processor's virtualisation."""


class KvmMsrRefused(KvmError):
    """KVM stopped at one MSR of a list; `index` is that MSR, `done` how many before it went through."""

    def __init__(self, ioctl: str, index: int, done: int) -> None:
        super().__init__(
            ioctl,
            _errno.EINVAL,
            "Leave it out, give it a value KVM accepts, or ask Kvm.msr_index_list() which MSRs exist.",
            f"MSR {index:#x} was refused, the {done} before it went through",
        )
        self.index = index
        self.done = done

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.ioctl, self.index, self.done)


class KvmCapabilityMissing(KvmError):
    """This host's KVM lacks a capability; `capability` is its name, `purpose` what it was wanted for."""

    def __init__(self, capability: str, purpose: str = "") -> None:
        super().__init__(
            "KVM_CHECK_EXTENSION",
            _errno.EOPNOTSUPP,
            "A newer kernel or another KVM back end may have it; do without, or run where it exists.",
            f"this KVM does not offer {capability}"
            + (f", needed for {purpose}" if purpose else ""),
        )
        self.capability = capability
        self.purpose = purpose

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.capability, self.purpose)


_ABSENT = (
    "Load kvm_intel or kvm_amd (modprobe). Inside a virtual machine, turn on nested virtualisation for it; inside a "
    "container, pass the device in (--device /dev/kvm)."
)
_FORBIDDEN = (
    "Join the group that owns the node (usually: usermod -aG kvm USER, then log in again), or give access by a udev "
    "rule; a container's device policy must allow it as well."
)
_HELD = "Another hypervisor holds VT-x or SVM: stop its virtual machines or unload its modules (VirtualBox, VMware)."

# Keyed by ioctl and errno.
_REMEDIES: dict[tuple[str, int], str] = {
    ("KVM_CREATE_VM", _errno.EINVAL): "This KVM does not know that machine type: 0 is the default.",
    ("KVM_CREATE_VCPU", _errno.EEXIST): "Each vCPU of a VM needs its own id.",
    ("KVM_CREATE_VCPU", _errno.EINVAL): (
        "The id must be below KVM_CAP_MAX_VCPU_ID and the number of vCPUs at most KVM_CAP_MAX_VCPUS."
    ),
    ("KVM_CREATE_IRQCHIP", _errno.EEXIST): "The VM already has its interrupt controllers.",
    (
        "KVM_CREATE_IRQCHIP",
        _errno.EINVAL,
    ): "Create the interrupt controllers before the first vCPU.",
    ("KVM_CREATE_PIT2", _errno.EEXIST): "The VM already has a timer.",
    ("KVM_CREATE_PIT2", _errno.ENOENT): "Create the interrupt controllers first.",
    (
        "KVM_SET_USER_MEMORY_REGION",
        _errno.EEXIST,
    ): "The range overlaps another slot: delete or move that one.",
    ("KVM_SET_USER_MEMORY_REGION", _errno.EINVAL): (
        "Address and size must be whole pages within the guest's physical address space, the slot number below "
        "KVM_CAP_NR_MEMSLOTS. An existing slot cannot change its size, and only an existing one can be deleted."
    ),
    ("KVM_GET_DIRTY_LOG", _errno.ENOENT): "Make the slot with log_dirty=True first.",
    (
        "KVM_GET_DIRTY_LOG",
        _errno.ENXIO,
    ): "Bitmaps are off once dirty rings are enabled: read the rings.",
    (
        "KVM_CLEAR_DIRTY_LOG",
        _errno.ENXIO,
    ): "Bitmaps are off once dirty rings are enabled: read the rings.",
    ("KVM_SET_TSS_ADDR", _errno.EINVAL): "The three pages must lie below 4 GiB.",
    ("KVM_SET_IDENTITY_MAP_ADDR", _errno.EINVAL): "Set it before the first vCPU is created.",
    ("KVM_SET_BOOT_CPU_ID", _errno.EBUSY): "Choose the boot vCPU before the first vCPU is created.",
    ("KVM_SET_GSI_ROUTING", _errno.EINVAL): (
        "Interrupt controllers must exist, and each entry must name an existing chip and pin, or an MSI."
    ),
    ("KVM_IRQFD", _errno.EBUSY): "That eventfd already raises an interrupt: deassign it first.",
    (
        "KVM_IRQFD",
        _errno.EINVAL,
    ): "It takes an eventfd, an existing GSI and interrupt controllers in the kernel.",
    ("KVM_IRQ_LINE", _errno.ENXIO): "Create the interrupt controllers first.",
    ("KVM_IRQ_LINE_STATUS", _errno.ENXIO): "Create the interrupt controllers first.",
    (
        "KVM_SIGNAL_MSI",
        _errno.EINVAL,
    ): "MSIs need local APICs in the kernel: create_irqchip or the split one.",
    (
        "KVM_GET_LAPIC",
        _errno.EINVAL,
    ): "There is no local APIC in the kernel: create_irqchip or the split one.",
    (
        "KVM_SET_LAPIC",
        _errno.EINVAL,
    ): "There is no local APIC in the kernel: create_irqchip or the split one.",
    ("KVM_RESET_DIRTY_RINGS", _errno.EINVAL): "Call enable_dirty_ring before the first vCPU.",
    ("KVM_KVMCLOCK_CTRL", _errno.EINVAL): "The guest has not turned on a kvmclock.",
    ("KVM_GET_IRQCHIP", _errno.ENXIO): "There are no interrupt controllers in the kernel to read.",
    ("KVM_SET_IRQCHIP", _errno.ENXIO): "There are no interrupt controllers in the kernel to write.",
    ("KVM_GET_PIT2", _errno.ENXIO): "Create the timer first.",
    ("KVM_SET_PIT2", _errno.ENXIO): "Create the timer first.",
    (
        "KVM_INTERRUPT",
        _errno.ENXIO,
    ): "With interrupt controllers in the kernel, use irq_line, irqfd or an MSI.",
    ("KVM_INTERRUPT", _errno.EEXIST): "An interrupt is queued already: run the vCPU first.",
    ("KVM_IOEVENTFD", _errno.EEXIST): "That address (and value) already signals an eventfd.",
    (
        "KVM_IOEVENTFD",
        _errno.ENOENT,
    ): "Nothing is registered there with this eventfd, length and value.",
    ("KVM_IOEVENTFD", _errno.ENOSPC): "Too many eventfds on one bus of the VM.",
    ("KVM_X86_SET_MSR_FILTER", _errno.EINVAL): "A filter that denies by default needs a range.",
    ("KVM_SET_CPUID2", _errno.EINVAL): "A vCPU's CPUID cannot change any more once it has run.",
    (
        "KVM_SET_MP_STATE",
        _errno.EINVAL,
    ): "States other than runnable need interrupt controllers in the kernel.",
    (
        "KVM_SET_SREGS",
        _errno.EINVAL,
    ): "CR0, CR3, CR4 and EFER must make a state that a processor can be in.",
    (
        "KVM_SET_SREGS2",
        _errno.EINVAL,
    ): "CR0, CR3, CR4 and EFER must make a state that a processor can be in.",
    (
        "KVM_RUN",
        _errno.EFAULT,
    ): "The guest used memory that the VMM does not back, or no longer does.",
    (
        "KVM_RUN",
        _errno.EINVAL,
    ): "The synced registers, or a pending access left unanswered, are not acceptable.",
    (
        "KVM_RUN",
        _errno.EIO,
    ): "KVM refuses to run this VM any more: its kernel log says why (dmesg).",
}

# Whatever the ioctl was.
_GENERAL: dict[int, str] = {
    _errno.ENOTTY: "This kernel's KVM does not know the request on such a descriptor.",
    _errno.ENOMEM: "The host is out of memory, or a memory or locked-memory limit of this process is reached.",
    _errno.EMFILE: "This process has too many open files: raise its limit (ulimit -n).",
    _errno.ENFILE: "The host has too many open files.",
    _errno.EBADF: "The descriptor is not open.",
    _errno.EIO: "KVM has marked this VM as broken: the kernel log says why (dmesg).",
}


def error_of(ioctl: str, errno: int, detail: str = "") -> KvmError:
    """The exception for a failed request. `ioctl` is its name, or "open" for opening the device node."""
    if ioctl == "open":
        if errno in (_errno.EACCES, _errno.EPERM):
            return KvmPermission(ioctl, errno, _FORBIDDEN, detail)
        if errno in (_errno.ENOENT, _errno.ENODEV, _errno.ENXIO, _errno.ENOTDIR):
            return KvmUnavailable(ioctl, errno, _ABSENT, detail)
    if ioctl == "KVM_GET_API_VERSION" and errno in (_errno.ENOTTY, _errno.EINVAL, _errno.ENODEV):
        return KvmUnavailable(ioctl, errno, f"This is not a KVM device. {_ABSENT}", detail)
    if ioctl == "KVM_CREATE_VM" and errno == _errno.EBUSY:
        return KvmBusy(ioctl, errno, _HELD, detail)
    remedy = _REMEDIES.get((ioctl, errno)) or _GENERAL.get(errno, "")
    return KvmError(ioctl, errno, remedy, detail)
