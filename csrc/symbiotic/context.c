/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "machine/vcpu.h"

enum {
	CR4_LA57 = 1 << 12,
	EFER_LMA = 1 << 10,
	RFLAGS_FIXED = 1 << 1,
	RFLAGS_IF = 1 << 9,
	SELECTOR_TI_RPL = 7,
	MSR_KERNEL_GS_BASE = 0xc0000102u,
	DESCRIPTOR = 8,
	TSS_BUSY = 2,
};

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int context_init(struct context *context, uint32_t xsave_size)
{
	context->xsave_size = xsave_size;
	context->xsave = calloc(
	        1, xsave_size > sizeof(struct kvm_xsave) ? xsave_size : sizeof(struct kvm_xsave));
	return context->xsave ? 0 : -ENOMEM;
}

void context_free(struct context *context)
{
	free(context->xsave);
	context->xsave = NULL;
}

int context_fetch(struct vcpu *vcpu, struct kvm_regs *regs, struct kvm_sregs *sregs,
                  struct kvm_vcpu_events *events)
{
	if (ioctl(vcpu->fd, KVM_GET_REGS, regs) || ioctl(vcpu->fd, KVM_GET_SREGS, sregs) ||
	    ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, events))
		return -errno;
	context_forget_bitmap(sregs);
	return 0;
}

/*
 * KVM takes a bit here as an interrupt to deliver, and in the shared registers it sets such bits
 * and never clears one. The events say what is to be delivered.
 */
void context_forget_bitmap(struct kvm_sregs *sregs)
{
	memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
}

/* SDM volume 1, 3.3.7.1; APM volume 2, 5.3.1 */
static bool canonical(uint64_t address, const struct kvm_sregs *sregs)
{
	int unused = sregs->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

	return (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

const char *context_refuse(const struct context_entry *entry, const struct kvm_sregs *sregs)
{
	if (!(sregs->efer & EFER_LMA) || !(sregs->cr0 & CR0_PE))
		return "the vCPU is not in long mode";
	if (!canonical(entry->rip, sregs))
		return "RIP (MSR 0x536) is not canonical";
	if (!entry->rsp || !canonical(entry->rsp, sregs))
		return "RSP (MSR 0x537) is not canonical, or was not given";
	if (!canonical(entry->gs, sregs))
		return "the GS base (MSR 0x539) is not canonical";
	if (!canonical(entry->fs, sregs))
		return "the FS base (MSR 0x540) is not canonical";
	if (!entry->cs || entry->cs > 0xffff || entry->cs & SELECTOR_TI_RPL)
		return "CS (MSR 0x538) is no selector of the GDT with privilege level 0";
	/* SS is the next descriptor. */
	if (entry->cs + 2 * DESCRIPTOR - 1 > sregs->gdt.limit)
		return "CS (MSR 0x538) or the SS after it lies outside the GDT";
	return NULL;
}

static int get_kernel_gs(struct vcpu *vcpu, uint64_t *value)
{
	struct one_msr msr = {.head.nmsrs = 1, .entry.index = MSR_KERNEL_GS_BASE};

	if (ioctl(vcpu->fd, KVM_GET_MSRS, &msr) != 1)
		return -EIO;
	*value = msr.entry.data;
	return 0;
}

static int set_kernel_gs(struct vcpu *vcpu, uint64_t value)
{
	struct one_msr msr = {
	        .head.nmsrs = 1,
	        .entry = {.index = MSR_KERNEL_GS_BASE, .data = value},
	};

	return ioctl(vcpu->fd, KVM_SET_MSRS, &msr) == 1 ? 0 : -EIO;
}

int context_save_extras(struct vcpu *vcpu, struct context *context)
{
	unsigned long get = context->xsave_size ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (ioctl(vcpu->fd, get, context->xsave))
		return -errno;
	context->has_extras = true;
	return get_kernel_gs(vcpu, &context->kernel_gs);
}

static int restore_extras(struct vcpu *vcpu, const struct context *context)
{
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, context->xsave))
		return -errno;
	return set_kernel_gs(vcpu, context->kernel_gs);
}

static struct kvm_segment flat(uint64_t selector, uint8_t type)
{
	return (struct kvm_segment){
	        .limit = 0xffffffff,
	        .selector = (uint16_t)selector,
	        .type = type,
	        .present = 1,
	        .s = 1,
	        .g = 1,
	        /* A code segment of 64 bits, or data. */
	        .l = type == 0xb,
	        .db = type != 0xb,
	};
}

/* True if the handler can run in the segments and page tables of the interrupted context. */
static bool fits(const struct context_entry *entry, const struct kvm_sregs *sregs)
{
	return sregs->cs.selector == entry->cs && sregs->cs.l && context_is_kernel(sregs) &&
	       sregs->gs.base == entry->gs && (!entry->fs || sregs->fs.base == entry->fs) &&
	       !(sregs->cr3 & entry->cr3_clear);
}

static void fit(const struct context_entry *entry, struct kvm_sregs *sregs)
{
	sregs->cs = flat(entry->cs, 0xb);
	sregs->ss = flat(entry->cs + DESCRIPTOR, 0x3);
	sregs->gs.base = entry->gs;
	if (entry->fs)
		sregs->fs.base = entry->fs;
	sregs->cr3 &= ~entry->cr3_clear;
}

/* True if something waits to be delivered that must not hit the handler instead. */
static bool has_events(const struct kvm_vcpu_events *events)
{
	return events->exception.injected || events->exception.pending ||
	       events->interrupt.injected || events->interrupt.shadow || events->nmi.injected;
}

/* An NMI that is only pending, and SMM, stay KVM's: it may get more of them meanwhile. */
static void set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	vcpu->run->s.regs.events = *events;
	vcpu->run->s.regs.events.flags &= KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_PAYLOAD;
	vcpu->run->s.regs.events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
}

/*
 * AMD's VMCB does not show that a TSS is busy, KVM adds it to what it reports, and takes it from
 * what it is given: a TR that is handed back as it was reported differs from the one the CPU had.
 * Where that CPU is QEMU's, user programs then lose their I/O ports.
 */
static void set_sregs(struct vcpu *vcpu, const struct context *context,
                      const struct kvm_sregs *sregs)
{
	vcpu->run->s.regs.sregs = *sregs;
	if (context->tr_not_busy)
		vcpu->run->s.regs.sregs.tr.type &= (uint8_t)~TSS_BUSY;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

void context_enter(struct vcpu *vcpu, const struct context *context,
                   const struct context_entry *entry, const struct kvm_regs *regs)
{
	struct kvm_sync_regs *shared = &vcpu->run->s.regs;

	shared->regs = *regs;
	shared->regs.rip = entry->rip;
	shared->regs.rsp = entry->rsp;
	shared->regs.rflags = RFLAGS_FIXED;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	if (!fits(entry, &context->sregs)) {
		struct kvm_sregs sregs = context->sregs;

		fit(entry, &sregs);
		set_sregs(vcpu, context, &sregs);
	}
	/* Those of the context, and those that finishing an instruction with zeros brought: a page
	 * fault, say, on its way to where it was to store them. */
	if (has_events(&shared->events)) {
		struct kvm_vcpu_events none = shared->events;

		memset(&none.exception, 0, sizeof(none.exception));
		memset(&none.interrupt, 0, sizeof(none.interrupt));
		none.nmi.injected = 0;
		none.exception_has_payload = 0;
		set_events(vcpu, &none);
	}
}

static bool same_events(const struct kvm_vcpu_events *a, const struct kvm_vcpu_events *b)
{
	return !memcmp(&a->exception, &b->exception, sizeof(a->exception)) &&
	       !memcmp(&a->interrupt, &b->interrupt, sizeof(a->interrupt)) &&
	       a->nmi.injected == b->nmi.injected && a->nmi.masked == b->nmi.masked;
}

/* Events that arrived during a call that was cut short must not be lost with it. */
static void restore_events(struct vcpu *vcpu, const struct context *context)
{
	const struct kvm_vcpu_events *now = &vcpu->run->s.regs.events;
	struct kvm_vcpu_events events = context->events;
	bool lost_nmi = now->nmi.injected && !events.nmi.injected;
	uint8_t pending = now->nmi.pending;

	if (now->interrupt.injected && !events.interrupt.injected &&
	    context->regs.rflags & RFLAGS_IF && !events.interrupt.shadow) {
		events.interrupt.injected = 1;
		events.interrupt.nr = now->interrupt.nr;
		events.interrupt.soft = now->interrupt.soft;
	}
	set_events(vcpu, &events);
	if (lost_nmi) {
		vcpu->run->s.regs.events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
		vcpu->run->s.regs.events.nmi.pending = pending < 2 ? pending + 1 : 2;
	}
}

static int set_mp_state(struct vcpu *vcpu, uint32_t state)
{
	struct kvm_mp_state mp = {.mp_state = state};

	return ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp) ? -errno : 0;
}

int context_wake(struct vcpu *vcpu, struct context *context)
{
	struct kvm_mp_state mp;
	int error;

	context->slept = false;
	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp))
		return -errno;
	if (mp.mp_state == KVM_MP_STATE_RUNNABLE)
		return 0;
	if (mp.mp_state != KVM_MP_STATE_HALTED)
		return -EAGAIN;
	error = set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
	context->slept = !error;
	return error;
}

int context_restore(struct vcpu *vcpu, const struct context *context)
{
	struct kvm_sync_regs *shared = &vcpu->run->s.regs;
	int error = 0;

	shared->regs = context->regs;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	context_forget_bitmap(&shared->sregs);
	if (memcmp(&shared->sregs, &context->sregs, sizeof(shared->sregs)) != 0)
		set_sregs(vcpu, context, &context->sregs);
	if (!same_events(&shared->events, &context->events))
		restore_events(vcpu, context);
	if (context->has_extras)
		error = restore_extras(vcpu, context);
	/* A handler that was cut short may have halted. */
	if (!error && (context->slept || vcpu->may_sleep))
		error = set_mp_state(vcpu,
		                     context->slept ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE);
	/* The next call may come before the vCPU is entered again. */
	vcpu->may_sleep = context->slept;
	return error;
}
