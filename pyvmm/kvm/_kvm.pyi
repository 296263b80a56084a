# SPDX-License-Identifier: Apache-2.0
"""The extension module made by csrc/build.py from csrc/kvm/; a test holds this list equal to it."""

from typing import Any, Final

ffi: Any

class _Lib:
    KVM_CAP_IRQCHIP: Final[int]
    KVM_CAP_HLT: Final[int]
    KVM_CAP_MMU_SHADOW_CACHE_CONTROL: Final[int]
    KVM_CAP_USER_MEMORY: Final[int]
    KVM_CAP_SET_TSS_ADDR: Final[int]
    KVM_CAP_VAPIC: Final[int]
    KVM_CAP_EXT_CPUID: Final[int]
    KVM_CAP_CLOCKSOURCE: Final[int]
    KVM_CAP_NR_VCPUS: Final[int]
    KVM_CAP_NR_MEMSLOTS: Final[int]
    KVM_CAP_PIT: Final[int]
    KVM_CAP_NOP_IO_DELAY: Final[int]
    KVM_CAP_PV_MMU: Final[int]
    KVM_CAP_MP_STATE: Final[int]
    KVM_CAP_COALESCED_MMIO: Final[int]
    KVM_CAP_SYNC_MMU: Final[int]
    KVM_CAP_IOMMU: Final[int]
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS: Final[int]
    KVM_CAP_USER_NMI: Final[int]
    KVM_CAP_SET_GUEST_DEBUG: Final[int]
    KVM_CAP_REINJECT_CONTROL: Final[int]
    KVM_CAP_IRQ_ROUTING: Final[int]
    KVM_CAP_IRQ_INJECT_STATUS: Final[int]
    KVM_CAP_ASSIGN_DEV_IRQ: Final[int]
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: Final[int]
    KVM_CAP_MCE: Final[int]
    KVM_CAP_IRQFD: Final[int]
    KVM_CAP_PIT2: Final[int]
    KVM_CAP_SET_BOOT_CPU_ID: Final[int]
    KVM_CAP_PIT_STATE2: Final[int]
    KVM_CAP_IOEVENTFD: Final[int]
    KVM_CAP_SET_IDENTITY_MAP_ADDR: Final[int]
    KVM_CAP_XEN_HVM: Final[int]
    KVM_CAP_ADJUST_CLOCK: Final[int]
    KVM_CAP_INTERNAL_ERROR_DATA: Final[int]
    KVM_CAP_VCPU_EVENTS: Final[int]
    KVM_CAP_HYPERV: Final[int]
    KVM_CAP_HYPERV_VAPIC: Final[int]
    KVM_CAP_HYPERV_SPIN: Final[int]
    KVM_CAP_PCI_SEGMENT: Final[int]
    KVM_CAP_INTR_SHADOW: Final[int]
    KVM_CAP_DEBUGREGS: Final[int]
    KVM_CAP_X86_ROBUST_SINGLESTEP: Final[int]
    KVM_CAP_ENABLE_CAP: Final[int]
    KVM_CAP_XSAVE: Final[int]
    KVM_CAP_XCRS: Final[int]
    KVM_CAP_ASYNC_PF: Final[int]
    KVM_CAP_TSC_CONTROL: Final[int]
    KVM_CAP_GET_TSC_KHZ: Final[int]
    KVM_CAP_MAX_VCPUS: Final[int]
    KVM_CAP_ONE_REG: Final[int]
    KVM_CAP_TSC_DEADLINE_TIMER: Final[int]
    KVM_CAP_SYNC_REGS: Final[int]
    KVM_CAP_PCI_2_3: Final[int]
    KVM_CAP_KVMCLOCK_CTRL: Final[int]
    KVM_CAP_SIGNAL_MSI: Final[int]
    KVM_CAP_READONLY_MEM: Final[int]
    KVM_CAP_IRQFD_RESAMPLE: Final[int]
    KVM_CAP_DEVICE_CTRL: Final[int]
    KVM_CAP_EXT_EMUL_CPUID: Final[int]
    KVM_CAP_HYPERV_TIME: Final[int]
    KVM_CAP_IOAPIC_POLARITY_IGNORED: Final[int]
    KVM_CAP_ENABLE_CAP_VM: Final[int]
    KVM_CAP_IOEVENTFD_NO_LENGTH: Final[int]
    KVM_CAP_VM_ATTRIBUTES: Final[int]
    KVM_CAP_CHECK_EXTENSION_VM: Final[int]
    KVM_CAP_DISABLE_QUIRKS: Final[int]
    KVM_CAP_X86_SMM: Final[int]
    KVM_CAP_MULTI_ADDRESS_SPACE: Final[int]
    KVM_CAP_GUEST_DEBUG_HW_BPS: Final[int]
    KVM_CAP_GUEST_DEBUG_HW_WPS: Final[int]
    KVM_CAP_SPLIT_IRQCHIP: Final[int]
    KVM_CAP_IOEVENTFD_ANY_LENGTH: Final[int]
    KVM_CAP_HYPERV_SYNIC: Final[int]
    KVM_CAP_VCPU_ATTRIBUTES: Final[int]
    KVM_CAP_MAX_VCPU_ID: Final[int]
    KVM_CAP_X2APIC_API: Final[int]
    KVM_CAP_MSI_DEVID: Final[int]
    KVM_CAP_IMMEDIATE_EXIT: Final[int]
    KVM_CAP_X86_DISABLE_EXITS: Final[int]
    KVM_CAP_HYPERV_SYNIC2: Final[int]
    KVM_CAP_HYPERV_VP_INDEX: Final[int]
    KVM_CAP_GET_MSR_FEATURES: Final[int]
    KVM_CAP_HYPERV_EVENTFD: Final[int]
    KVM_CAP_HYPERV_TLBFLUSH: Final[int]
    KVM_CAP_NESTED_STATE: Final[int]
    KVM_CAP_MSR_PLATFORM_INFO: Final[int]
    KVM_CAP_HYPERV_SEND_IPI: Final[int]
    KVM_CAP_COALESCED_PIO: Final[int]
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS: Final[int]
    KVM_CAP_EXCEPTION_PAYLOAD: Final[int]
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT: Final[int]
    KVM_CAP_HYPERV_CPUID: Final[int]
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Final[int]
    KVM_CAP_PMU_EVENT_FILTER: Final[int]
    KVM_CAP_HYPERV_DIRECT_TLBFLUSH: Final[int]
    KVM_CAP_HALT_POLL: Final[int]
    KVM_CAP_ASYNC_PF_INT: Final[int]
    KVM_CAP_LAST_CPU: Final[int]
    KVM_CAP_SMALLER_MAXPHYADDR: Final[int]
    KVM_CAP_STEAL_TIME: Final[int]
    KVM_CAP_X86_USER_SPACE_MSR: Final[int]
    KVM_CAP_X86_MSR_FILTER: Final[int]
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID: Final[int]
    KVM_CAP_SYS_HYPERV_CPUID: Final[int]
    KVM_CAP_DIRTY_LOG_RING: Final[int]
    KVM_CAP_X86_BUS_LOCK_EXIT: Final[int]
    KVM_CAP_SET_GUEST_DEBUG2: Final[int]
    KVM_CAP_SGX_ATTRIBUTE: Final[int]
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: Final[int]
    KVM_CAP_PTP_KVM: Final[int]
    KVM_CAP_HYPERV_ENFORCE_CPUID: Final[int]
    KVM_CAP_SREGS2: Final[int]
    KVM_CAP_EXIT_HYPERCALL: Final[int]
    KVM_CAP_BINARY_STATS_FD: Final[int]
    KVM_CAP_EXIT_ON_EMULATION_FAILURE: Final[int]
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: Final[int]
    KVM_CAP_VM_GPA_BITS: Final[int]
    KVM_CAP_XSAVE2: Final[int]
    KVM_CAP_SYS_ATTRIBUTES: Final[int]
    KVM_CAP_PMU_CAPABILITY: Final[int]
    KVM_CAP_DISABLE_QUIRKS2: Final[int]
    KVM_CAP_VM_TSC_CONTROL: Final[int]
    KVM_CAP_SYSTEM_EVENT_DATA: Final[int]
    KVM_CAP_X86_TRIPLE_FAULT_EVENT: Final[int]
    KVM_CAP_X86_NOTIFY_VMEXIT: Final[int]
    KVM_CAP_VM_DISABLE_NX_HUGE_PAGES: Final[int]
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL: Final[int]
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: Final[int]
    KVM_CAP_PMU_EVENT_MASKED_EVENTS: Final[int]
    KVM_CAP_USER_MEMORY2: Final[int]
    KVM_CAP_MEMORY_FAULT_INFO: Final[int]
    KVM_CAP_MEMORY_ATTRIBUTES: Final[int]
    KVM_CAP_GUEST_MEMFD: Final[int]
    KVM_CAP_VM_TYPES: Final[int]
    KVM_CAP_PRE_FAULT_MEMORY: Final[int]
    KVM_CAP_X86_APIC_BUS_CYCLES_NS: Final[int]
    KVM_CAP_X86_GUEST_MODE: Final[int]
    KVM_X86_DISABLE_EXITS_MWAIT: Final[int]
    KVM_X86_DISABLE_EXITS_HLT: Final[int]
    KVM_X86_DISABLE_EXITS_PAUSE: Final[int]
    KVM_X86_DISABLE_EXITS_CSTATE: Final[int]
    KVM_X86_QUIRK_LINT0_REENABLED: Final[int]
    KVM_X86_QUIRK_CD_NW_CLEARED: Final[int]
    KVM_X86_QUIRK_LAPIC_MMIO_HOLE: Final[int]
    KVM_X86_QUIRK_OUT_7E_INC_RIP: Final[int]
    KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: Final[int]
    KVM_X86_QUIRK_FIX_HYPERCALL_INSN: Final[int]
    KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS: Final[int]
    KVM_X2APIC_API_USE_32BIT_IDS: Final[int]
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: Final[int]
    KVM_BUS_LOCK_DETECTION_OFF: Final[int]
    KVM_BUS_LOCK_DETECTION_EXIT: Final[int]
    KVM_PMU_CAP_DISABLE: Final[int]
    KVM_X86_NOTIFY_VMEXIT_ENABLED: Final[int]
    KVM_X86_NOTIFY_VMEXIT_USER: Final[int]
    KVM_API_VERSION: Final[int]
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX: Final[int]
    KVM_MSR_FILTER_READ: Final[int]
    KVM_MSR_FILTER_WRITE: Final[int]
    KVM_MSR_FILTER_DEFAULT_ALLOW: Final[int]
    KVM_MSR_FILTER_DEFAULT_DENY: Final[int]
    KVM_MSR_FILTER_MAX_RANGES: Final[int]
    KVM_MSR_FILTER_MAX_BITMAP_SIZE: Final[int]
    KVM_MSR_EXIT_REASON_INVAL: Final[int]
    KVM_MSR_EXIT_REASON_UNKNOWN: Final[int]
    KVM_MSR_EXIT_REASON_FILTER: Final[int]
    KVM_MEM_LOG_DIRTY_PAGES: Final[int]
    KVM_MEM_READONLY: Final[int]
    KVM_COALESCED_MMIO_PAGE_OFFSET: Final[int]
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: Final[int]
    KVM_DIRTY_LOG_INITIALLY_SET: Final[int]
    KVM_DIRTY_LOG_PAGE_OFFSET: Final[int]
    KVM_DIRTY_GFN_F_DIRTY: Final[int]
    KVM_DIRTY_GFN_F_RESET: Final[int]
    KVM_IRQCHIP_PIC_MASTER: Final[int]
    KVM_IRQCHIP_PIC_SLAVE: Final[int]
    KVM_IRQCHIP_IOAPIC: Final[int]
    KVM_NR_IRQCHIPS: Final[int]
    KVM_IOAPIC_NUM_PINS: Final[int]
    KVM_APIC_REG_SIZE: Final[int]
    KVM_PIT_SPEAKER_DUMMY: Final[int]
    KVM_PIT_FLAGS_HPET_LEGACY: Final[int]
    KVM_PIT_FLAGS_SPEAKER_DATA_ON: Final[int]
    KVM_IRQ_ROUTING_IRQCHIP: Final[int]
    KVM_IRQ_ROUTING_MSI: Final[int]
    KVM_MSI_VALID_DEVID: Final[int]
    KVM_IRQFD_FLAG_DEASSIGN: Final[int]
    KVM_IRQFD_FLAG_RESAMPLE: Final[int]
    KVM_IOEVENTFD_FLAG_DATAMATCH: Final[int]
    KVM_IOEVENTFD_FLAG_PIO: Final[int]
    KVM_IOEVENTFD_FLAG_DEASSIGN: Final[int]
    KVM_CLOCK_TSC_STABLE: Final[int]
    KVM_CLOCK_REALTIME: Final[int]
    KVM_CLOCK_HOST_TSC: Final[int]
    KVM_VCPU_TSC_CTRL: Final[int]
    KVM_VCPU_TSC_OFFSET: Final[int]
    KVM_SREGS2_FLAGS_PDPTRS_VALID: Final[int]
    KVM_NR_INTERRUPTS: Final[int]
    KVM_MAX_XCRS: Final[int]
    KVM_VCPUEVENT_VALID_NMI_PENDING: Final[int]
    KVM_VCPUEVENT_VALID_SIPI_VECTOR: Final[int]
    KVM_VCPUEVENT_VALID_SHADOW: Final[int]
    KVM_VCPUEVENT_VALID_SMM: Final[int]
    KVM_VCPUEVENT_VALID_PAYLOAD: Final[int]
    KVM_VCPUEVENT_VALID_TRIPLE_FAULT: Final[int]
    KVM_X86_SHADOW_INT_MOV_SS: Final[int]
    KVM_X86_SHADOW_INT_STI: Final[int]
    KVM_MP_STATE_RUNNABLE: Final[int]
    KVM_MP_STATE_UNINITIALIZED: Final[int]
    KVM_MP_STATE_INIT_RECEIVED: Final[int]
    KVM_MP_STATE_HALTED: Final[int]
    KVM_MP_STATE_SIPI_RECEIVED: Final[int]
    DE_VECTOR: Final[int]
    DB_VECTOR: Final[int]
    BP_VECTOR: Final[int]
    OF_VECTOR: Final[int]
    BR_VECTOR: Final[int]
    UD_VECTOR: Final[int]
    NM_VECTOR: Final[int]
    DF_VECTOR: Final[int]
    TS_VECTOR: Final[int]
    NP_VECTOR: Final[int]
    SS_VECTOR: Final[int]
    GP_VECTOR: Final[int]
    PF_VECTOR: Final[int]
    MF_VECTOR: Final[int]
    AC_VECTOR: Final[int]
    MC_VECTOR: Final[int]
    XM_VECTOR: Final[int]
    VE_VECTOR: Final[int]
    KVM_GUESTDBG_ENABLE: Final[int]
    KVM_GUESTDBG_SINGLESTEP: Final[int]
    KVM_GUESTDBG_USE_SW_BP: Final[int]
    KVM_GUESTDBG_USE_HW_BP: Final[int]
    KVM_GUESTDBG_INJECT_DB: Final[int]
    KVM_GUESTDBG_INJECT_BP: Final[int]
    KVM_GUESTDBG_BLOCKIRQ: Final[int]
    KVM_STATE_NESTED_FORMAT_VMX: Final[int]
    KVM_STATE_NESTED_FORMAT_SVM: Final[int]
    KVM_STATE_NESTED_GUEST_MODE: Final[int]
    KVM_STATE_NESTED_RUN_PENDING: Final[int]
    KVM_EXIT_UNKNOWN: Final[int]
    KVM_EXIT_EXCEPTION: Final[int]
    KVM_EXIT_IO: Final[int]
    KVM_EXIT_HYPERCALL: Final[int]
    KVM_EXIT_DEBUG: Final[int]
    KVM_EXIT_HLT: Final[int]
    KVM_EXIT_MMIO: Final[int]
    KVM_EXIT_IRQ_WINDOW_OPEN: Final[int]
    KVM_EXIT_SHUTDOWN: Final[int]
    KVM_EXIT_FAIL_ENTRY: Final[int]
    KVM_EXIT_INTR: Final[int]
    KVM_EXIT_SET_TPR: Final[int]
    KVM_EXIT_TPR_ACCESS: Final[int]
    KVM_EXIT_NMI: Final[int]
    KVM_EXIT_INTERNAL_ERROR: Final[int]
    KVM_EXIT_WATCHDOG: Final[int]
    KVM_EXIT_SYSTEM_EVENT: Final[int]
    KVM_EXIT_IOAPIC_EOI: Final[int]
    KVM_EXIT_HYPERV: Final[int]
    KVM_EXIT_X86_RDMSR: Final[int]
    KVM_EXIT_X86_WRMSR: Final[int]
    KVM_EXIT_DIRTY_RING_FULL: Final[int]
    KVM_EXIT_AP_RESET_HOLD: Final[int]
    KVM_EXIT_X86_BUS_LOCK: Final[int]
    KVM_EXIT_XEN: Final[int]
    KVM_EXIT_NOTIFY: Final[int]
    KVM_EXIT_MEMORY_FAULT: Final[int]
    KVM_EXIT_IO_IN: Final[int]
    KVM_EXIT_IO_OUT: Final[int]
    KVM_INTERNAL_ERROR_EMULATION: Final[int]
    KVM_INTERNAL_ERROR_SIMUL_EX: Final[int]
    KVM_INTERNAL_ERROR_DELIVERY_EV: Final[int]
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: Final[int]
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: Final[int]
    KVM_SYSTEM_EVENT_SHUTDOWN: Final[int]
    KVM_SYSTEM_EVENT_RESET: Final[int]
    KVM_SYSTEM_EVENT_CRASH: Final[int]
    KVM_NOTIFY_CONTEXT_INVALID: Final[int]
    KVM_RUN_X86_SMM: Final[int]
    KVM_RUN_X86_BUS_LOCK: Final[int]
    KVM_RUN_X86_GUEST_MODE: Final[int]
    KVM_SYNC_X86_REGS: Final[int]
    KVM_SYNC_X86_SREGS: Final[int]
    KVM_SYNC_X86_EVENTS: Final[int]
    KVM_SYNC_X86_VALID_FIELDS: Final[int]
    def kvm_check_extension(self, fd: int, argument: int, /) -> int: ...
    def kvm_enable_cap(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_api_version(self, fd: int, /) -> int: ...
    def kvm_get_vcpu_mmap_size(self, fd: int, /) -> int: ...
    def kvm_create_vm(self, fd: int, argument: int, /) -> int: ...
    def kvm_create_vcpu(self, fd: int, argument: int, /) -> int: ...
    def kvm_get_stats_fd(self, fd: int, /) -> int: ...
    def kvm_get_supported_cpuid(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_emulated_cpuid(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_cpuid2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_cpuid2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_msr_index_list(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_msr_feature_index_list(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_msrs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_msrs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_x86_set_msr_filter(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_user_memory_region(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_tss_addr(self, fd: int, argument: int, /) -> int: ...
    def kvm_set_identity_map_addr(self, fd: int, argument: Any, /) -> int: ...
    def kvm_register_coalesced_mmio(self, fd: int, argument: Any, /) -> int: ...
    def kvm_unregister_coalesced_mmio(self, fd: int, argument: Any, /) -> int: ...
    def kvm_coalesced_take(self, ring: Any, page_size: int, out: Any, limit: int, /) -> int: ...
    def kvm_get_dirty_log(self, fd: int, argument: Any, /) -> int: ...
    def kvm_clear_dirty_log(self, fd: int, argument: Any, /) -> int: ...
    def kvm_reset_dirty_rings(self, fd: int, /) -> int: ...
    def kvm_dirty_ring_take(
        self, ring: Any, entries: int, next: Any, out: Any, limit: int, /
    ) -> int: ...
    def kvm_create_irqchip(self, fd: int, /) -> int: ...
    def kvm_get_irqchip(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_irqchip(self, fd: int, argument: Any, /) -> int: ...
    def kvm_irq_line(self, fd: int, argument: Any, /) -> int: ...
    def kvm_irq_line_status(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_lapic(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_lapic(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_boot_cpu_id(self, fd: int, argument: int, /) -> int: ...
    def kvm_create_pit2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_pit2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_pit2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_reinject_control(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_gsi_routing(self, fd: int, argument: Any, /) -> int: ...
    def kvm_signal_msi(self, fd: int, argument: Any, /) -> int: ...
    def kvm_irqfd_assign(self, fd: int, argument: Any, /) -> int: ...
    def kvm_ioeventfd_assign(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_clock(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_clock(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_tsc_khz(self, fd: int, /) -> int: ...
    def kvm_set_tsc_khz(self, fd: int, argument: int, /) -> int: ...
    def kvm_kvmclock_ctrl(self, fd: int, /) -> int: ...
    def kvm_has_device_attr(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_device_attr(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_device_attr(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_regs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_regs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_sregs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_sregs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_sregs2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_sregs2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_translate(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_fpu(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_fpu(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_xsave(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_xsave2(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_xsave(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_xcrs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_xcrs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_vcpu_events(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_vcpu_events(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_mp_state(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_mp_state(self, fd: int, argument: Any, /) -> int: ...
    def kvm_inject_interrupt(self, fd: int, argument: Any, /) -> int: ...
    def kvm_inject_nmi(self, fd: int, /) -> int: ...
    def kvm_inject_smi(self, fd: int, /) -> int: ...
    def kvm_get_debugregs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_debugregs(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_guest_debug(self, fd: int, argument: Any, /) -> int: ...
    def kvm_get_nested_state(self, fd: int, argument: Any, /) -> int: ...
    def kvm_set_nested_state(self, fd: int, argument: Any, /) -> int: ...
    def kvm_enter(self, fd: int, /) -> int: ...
    def kvm_set_signal_mask(self, fd: int, argument: Any, /) -> int: ...
    def kvm_map(self, fd: int, offset: int, size: int, mapping: Any, /) -> int: ...
    def kvm_unmap(self, mapping: Any, size: int, /) -> int: ...

lib: _Lib
