/* SPDX-License-Identifier: Apache-2.0 */
/* Running a vCPU: the structure shared with the kernel, exit reasons, synced registers. */
#ifndef PYVMM_KVM_RUN_H
#define PYVMM_KVM_RUN_H

#include "kvm/ioctl.h"

#include <sys/mman.h>

/* Newer than the oldest headers that this builds with (Linux 6.1). */
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif
#ifndef KVM_RUN_X86_GUEST_MODE
#define KVM_RUN_X86_GUEST_MODE (1 << 2)
#endif

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_EXIT_UNKNOWN ...
#define KVM_EXIT_EXCEPTION ...
#define KVM_EXIT_IO ...
#define KVM_EXIT_HYPERCALL ...
#define KVM_EXIT_DEBUG ...
#define KVM_EXIT_HLT ...
#define KVM_EXIT_MMIO ...
#define KVM_EXIT_IRQ_WINDOW_OPEN ...
#define KVM_EXIT_SHUTDOWN ...
#define KVM_EXIT_FAIL_ENTRY ...
#define KVM_EXIT_INTR ...
#define KVM_EXIT_SET_TPR ...
#define KVM_EXIT_TPR_ACCESS ...
#define KVM_EXIT_NMI ...
#define KVM_EXIT_INTERNAL_ERROR ...
#define KVM_EXIT_WATCHDOG ...
#define KVM_EXIT_SYSTEM_EVENT ...
#define KVM_EXIT_IOAPIC_EOI ...
#define KVM_EXIT_HYPERV ...
#define KVM_EXIT_X86_RDMSR ...
#define KVM_EXIT_X86_WRMSR ...
#define KVM_EXIT_DIRTY_RING_FULL ...
#define KVM_EXIT_AP_RESET_HOLD ...
#define KVM_EXIT_X86_BUS_LOCK ...
#define KVM_EXIT_XEN ...
#define KVM_EXIT_NOTIFY ...
#define KVM_EXIT_MEMORY_FAULT ...
#define KVM_EXIT_IO_IN ...
#define KVM_EXIT_IO_OUT ...
#define KVM_INTERNAL_ERROR_EMULATION ...
#define KVM_INTERNAL_ERROR_SIMUL_EX ...
#define KVM_INTERNAL_ERROR_DELIVERY_EV ...
#define KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON ...
#define KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES ...
#define KVM_SYSTEM_EVENT_SHUTDOWN ...
#define KVM_SYSTEM_EVENT_RESET ...
#define KVM_SYSTEM_EVENT_CRASH ...
#define KVM_NOTIFY_CONTEXT_INVALID ...
#define KVM_RUN_X86_SMM ...
#define KVM_RUN_X86_BUS_LOCK ...
#define KVM_RUN_X86_GUEST_MODE ...
#define KVM_SYNC_X86_REGS ...
#define KVM_SYNC_X86_SREGS ...
#define KVM_SYNC_X86_EVENTS ...
#define KVM_SYNC_X86_VALID_FIELDS ...

struct kvm_sync_regs {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
};

struct kvm_run {
	__u8 request_interrupt_window;
	__u8 immediate_exit;
	__u32 exit_reason;
	__u8 ready_for_interrupt_injection;
	__u8 if_flag;
	__u16 flags;
	__u64 cr8;
	__u64 apic_base;
	union {
		struct {
			__u64 hardware_exit_reason;
		} hw;
		struct {
			__u64 hardware_entry_failure_reason;
			__u32 cpu;
		} fail_entry;
		struct {
			__u32 exception;
			__u32 error_code;
		} ex;
		struct {
			__u8 direction;
			__u8 size;
			__u16 port;
			__u32 count;
			__u64 data_offset;
		} io;
		struct {
			struct kvm_debug_exit_arch arch;
		} debug;
		struct {
			__u64 phys_addr;
			__u8 data[8];
			__u32 len;
			__u8 is_write;
		} mmio;
		struct {
			__u64 nr;
			__u64 args[6];
			__u64 ret;
			__u32 longmode;
			__u32 pad;
		} hypercall;
		struct {
			__u64 rip;
			__u32 is_write;
			__u32 pad;
		} tpr_access;
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 data[16];
		} internal;
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 flags;
			__u8 insn_size;
			__u8 insn_bytes[15];
		} emulation_failure;
		struct {
			__u32 type;
			__u32 ndata;
			__u64 data[16];
		} system_event;
		struct {
			__u8 vector;
		} eoi;
		struct {
			__u8 error;
			__u8 pad[7];
			__u32 reason;
			__u32 index;
			__u64 data;
		} msr;
		struct {
			__u32 flags;
		} notify;
		char padding[256];
	};
	__u64 kvm_valid_regs;
	__u64 kvm_dirty_regs;
	union {
		struct kvm_sync_regs regs;
		char padding[2048];
	} s;
	...;
};

struct kvm_signal_mask {
	__u32 len;
	__u8 sigset[];
	...;
};

int kvm_enter(int fd);
int kvm_set_signal_mask(int fd, struct kvm_signal_mask *argument);
int kvm_map(int fd, unsigned long offset, unsigned long size, void **mapping);
int kvm_unmap(void *mapping, unsigned long size);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_BARE(kvm_enter, KVM_RUN)
KVM_IOCTL_POINTER(kvm_set_signal_mask, KVM_SET_SIGNAL_MASK, struct kvm_signal_mask)

/* Maps a part of a vCPU's descriptor: struct kvm_run at offset 0, the dirty ring at its own offset.
 */
static inline int kvm_map(int fd, unsigned long offset, unsigned long size, void **mapping)
{
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	if (address == MAP_FAILED)
		return -errno;
	*mapping = address;
	return 0;
}

static inline int kvm_unmap(void *mapping, unsigned long size)
{
	return munmap(mapping, size) ? -errno : 0;
}

#endif
