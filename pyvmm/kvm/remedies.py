# SPDX-License-Identifier: Apache-2.0
"""Remedies for refusals, by ioctl and errno. Loaded when something failed."""

from __future__ import annotations

from errno import (
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    EMFILE,
    ENFILE,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTTY,
    ENXIO,
)

REMEDIES: dict[str, dict[int, str]] = {
    "KVM_CREATE_VM": {
        EINVAL: "This KVM does not know that machine type: 0 is the default.",
    },
    "KVM_CREATE_VCPU": {
        EEXIST: "Each vCPU of a VM needs its own id.",
        EINVAL: (
            "The id must be below KVM_CAP_MAX_VCPU_ID and the number of vCPUs at most "
            "KVM_CAP_MAX_VCPUS."
        ),
    },
    "KVM_CREATE_IRQCHIP": {
        EEXIST: "The VM already has its interrupt controllers.",
        EINVAL: "Create the interrupt controllers before the first vCPU.",
    },
    "KVM_CREATE_PIT2": {
        EEXIST: "The VM already has a timer.",
        ENOENT: "Create the interrupt controllers first.",
    },
    "KVM_SET_USER_MEMORY_REGION": {
        EEXIST: "The range overlaps another slot: delete or move that one.",
        EINVAL: (
            "Address and size must be whole pages within the guest's physical address space, the "
            "slot number below KVM_CAP_NR_MEMSLOTS. An existing slot cannot change its size, and "
            "only an existing one can be deleted."
        ),
    },
    "KVM_GET_DIRTY_LOG": {
        ENOENT: "Make the slot with log_dirty=True first.",
        ENXIO: "Bitmaps are off once dirty rings are enabled: read the rings.",
    },
    "KVM_CLEAR_DIRTY_LOG": {
        ENXIO: "Bitmaps are off once dirty rings are enabled: read the rings.",
    },
    "KVM_SET_TSS_ADDR": {
        EINVAL: "The three pages must lie below 4 GiB.",
    },
    "KVM_SET_IDENTITY_MAP_ADDR": {
        EINVAL: "Set it before the first vCPU is created.",
    },
    "KVM_SET_BOOT_CPU_ID": {
        EBUSY: "Choose the boot vCPU before the first vCPU is created.",
    },
    "KVM_SET_GSI_ROUTING": {
        EINVAL: (
            "Interrupt controllers must exist, and each entry must name an existing chip and pin, "
            "or an MSI."
        ),
    },
    "KVM_IRQFD": {
        EBUSY: "That eventfd already raises an interrupt: deassign it first.",
        EINVAL: "It takes an eventfd, an existing GSI and interrupt controllers in the kernel.",
    },
    "KVM_IRQ_LINE": {
        ENXIO: "Create the interrupt controllers first.",
    },
    "KVM_IRQ_LINE_STATUS": {
        ENXIO: "Create the interrupt controllers first.",
    },
    "KVM_SIGNAL_MSI": {
        EINVAL: "MSIs need local APICs in the kernel: create_irqchip or the split one.",
    },
    "KVM_GET_LAPIC": {
        EINVAL: "There is no local APIC in the kernel: create_irqchip or the split one.",
    },
    "KVM_SET_LAPIC": {
        EINVAL: "There is no local APIC in the kernel: create_irqchip or the split one.",
    },
    "KVM_RESET_DIRTY_RINGS": {
        EINVAL: "Call enable_dirty_ring before the first vCPU.",
    },
    "KVM_KVMCLOCK_CTRL": {
        EINVAL: "The guest has not turned on a kvmclock.",
    },
    "KVM_GET_IRQCHIP": {
        ENXIO: "There are no interrupt controllers in the kernel to read.",
    },
    "KVM_SET_IRQCHIP": {
        ENXIO: "There are no interrupt controllers in the kernel to write.",
    },
    "KVM_GET_PIT2": {
        ENXIO: "Create the timer first.",
    },
    "KVM_SET_PIT2": {
        ENXIO: "Create the timer first.",
    },
    "KVM_INTERRUPT": {
        ENXIO: "With interrupt controllers in the kernel, use irq_line, irqfd or an MSI.",
        EEXIST: "An interrupt is queued already: run the vCPU first.",
    },
    "KVM_IOEVENTFD": {
        EEXIST: "That address (and value) already signals an eventfd.",
        ENOENT: "Nothing is registered there with this eventfd, length and value.",
        ENOSPC: "Too many eventfds on one bus of the VM.",
    },
    "KVM_X86_SET_MSR_FILTER": {
        EINVAL: "A filter that denies by default needs a range.",
    },
    "KVM_SET_CPUID2": {
        EINVAL: "A vCPU's CPUID cannot change any more once it has run.",
    },
    "KVM_SET_MP_STATE": {
        EINVAL: "States other than runnable need interrupt controllers in the kernel.",
    },
    "KVM_SET_SREGS": {
        EINVAL: "CR0, CR3, CR4 and EFER must make a state that a processor can be in.",
    },
    "KVM_SET_SREGS2": {
        EINVAL: "CR0, CR3, CR4 and EFER must make a state that a processor can be in.",
    },
    "KVM_RUN": {
        EFAULT: "The guest used memory that the VMM does not back, or no longer does.",
        EINVAL: "The synced registers, or a pending access left unanswered, are not acceptable.",
        EIO: "KVM refuses to run this VM any more: its kernel log says why (dmesg).",
    },
    "KVM_SET_TSC_KHZ": {
        EINVAL: "A VM's rate is set before its first vCPU and has an upper limit.",
    },
}

# Whatever the ioctl was.
GENERAL: dict[int, str] = {
    ENOTTY: "This kernel's KVM does not know the request on such a descriptor.",
    ENOMEM: (
        "The host is out of memory, or a memory or locked-memory limit of this process is reached."
    ),
    EMFILE: "This process has too many open files: raise its limit (ulimit -n).",
    ENFILE: "The host has too many open files.",
    EBADF: "The descriptor is not open.",
    EIO: "KVM has marked this VM as broken: the kernel log says why (dmesg).",
}

# For opening the device node, and for the processor.
ABSENT = (
    "Load kvm_intel or kvm_amd (modprobe). Inside a virtual machine, turn on nested "
    "virtualisation for it; inside a container, pass the device in (--device /dev/kvm)."
)
FORBIDDEN = (
    "Join the group that owns the node (usually: usermod -aG kvm USER, then log in "
    "again), or give access by a udev rule; a container's device policy must allow it as "
    "well."
)
HELD = (
    "Another hypervisor holds VT-x or SVM: stop its virtual machines or unload its "
    "modules (VirtualBox, VMware)."
)
