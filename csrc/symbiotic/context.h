/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a vCPU when a symcall interrupted it, and how it gets that back.
 *
 * The state goes through the shared part of struct kvm_run (KVM_CAP_SYNC_REGS): KVM_RUN itself
 * brings it and takes it, so that a symcall needs no ioctl of its own. "Fresh" means that the
 * shared part holds what the vCPU holds. api.rst, "KVM_CAP_SYNC_REGS".
 */
#ifndef PYVMM_SYMBIOTIC_CONTEXT_H
#define PYVMM_SYMBIOTIC_CONTEXT_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct vcpu;

/* Where a symcall enters the guest, as the guest registered it. */
struct context_entry {
	uint64_t rip;
	uint64_t rsp;
	uint64_t cs;
	uint64_t gs;
	uint64_t fs;        /* 0: any will do */
	uint64_t cr3_clear; /* bits to clear */
	uint64_t promises;
};

enum {
	CR0_PE = 1 << 0,

	CONTEXT_SYNC = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS,
};

struct context {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	uint32_t mp_state;
	bool slept;      /* mp_state is to be set again */
	bool has_extras; /* xsave and kernel_gs hold something */
	uint64_t kernel_gs;
	uint32_t xsave_size;
	void *xsave;
	bool tr_not_busy; /* see set_sregs() */
};

/* 0 or -ENOMEM. The size is that of KVM_CAP_XSAVE2, or 0 where KVM does not have it. */
int context_init(struct context *context, uint32_t xsave_size);
void context_free(struct context *context);

/* Brings regs, sregs and events of a vCPU by ioctls, also in the middle of an instruction. 0 or
 * -errno. */
int context_fetch(struct vcpu *vcpu, struct kvm_regs *regs, struct kvm_sregs *sregs,
                  struct kvm_vcpu_events *events);

/* Clears what KVM's registers say of interrupts. */
void context_forget_bitmap(struct kvm_sregs *sregs);

/* NULL, or what is wrong with the entry in a vCPU of that state. */
const char *context_refuse(const struct context_entry *entry, const struct kvm_sregs *sregs);

/* Keeps what the shared part does not: 0 or -errno. */
int context_save_extras(struct vcpu *vcpu, struct context *context);

/* Sets the vCPU up for the entry; `context` holds its state. */
void context_enter(struct vcpu *vcpu, const struct context *context,
                   const struct context_entry *entry, const struct kvm_regs *regs);

/* Gives the vCPU its state back, from a shared part that is fresh: 0 or -errno. */
int context_restore(struct vcpu *vcpu, const struct context *context);

/* Puts the halted state off, if the vCPU sleeps: 0, -EAGAIN if it never ran, or -errno. */
int context_wake(struct vcpu *vcpu, struct context *context);

static inline bool context_is_kernel(const struct kvm_sregs *sregs)
{
	return sregs->ss.dpl == 0 && (sregs->cr0 & CR0_PE);
}

#endif
