/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Takes the place of the driver's file of this name when it is built as a
 * module: the same, made of what the kernel exports.
 */
#ifndef _SYMBIOTIC_REACH_H
#define _SYMBIOTIC_REACH_H

#include <linux/context_tracking.h>
#include <linux/elf.h>
#include <linux/entry-common.h>
#include <linux/hardirq.h>
#include <linux/kernel.h>
#include <linux/kexec.h>
#include <linux/string.h>
#include <asm/debugreg.h>
#include <asm/io.h>
#include <asm/page.h>

/* For struct symbiotic_facts. */
#define SYMBIOTIC_FACTS_FLAGS	SYMBIOTIC_FACTS_MODULE

/*
 * irqentry_nmi_enter() is not exported, nor ct_nmi_enter() in it, by which RCU
 * learns that this CPU reads again if the idle loop was interrupted or, with
 * nohz_full=, user space. But the per-CPU state that they work on is, for the
 * sake of KVM, and a header has its layout. What is left out: trace points,
 * KMSAN, the tracers of hardware latency.
 */
#if defined(CT_RCU_WATCHING)
#define SYMBIOTIC_WATCHING	CT_RCU_WATCHING
#define SYMBIOTIC_NMI_NESTING	nmi_nesting
#elif defined(RCU_DYNTICKS_IDX) /* before Linux 6.12 */
#define SYMBIOTIC_WATCHING	RCU_DYNTICKS_IDX
#define SYMBIOTIC_NMI_NESTING	dynticks_nmi_nesting
#else
#error "this kernel tells RCU of idle CPUs in a way that is not known here"
#endif

struct symbiotic_context {
	irqentry_state_t irq;
	unsigned long dr7;
};

/*
 * The nesting goes by 2, and by 1 for who found that RCU was not watching: so
 * only at 1 the way out leads back there.
 */
static __always_inline void symbiotic_rcu_enter(void)
{
	struct context_tracking *ct = this_cpu_ptr(&context_tracking);
	long step = 2;

	if (!(arch_atomic_read(&ct->state) & SYMBIOTIC_WATCHING)) {
		arch_atomic_add_return(SYMBIOTIC_WATCHING, &ct->state);
		step = 1;
	}
	WRITE_ONCE(ct->SYMBIOTIC_NMI_NESTING, ct->SYMBIOTIC_NMI_NESTING + step);
	barrier();
}

static __always_inline void symbiotic_rcu_leave(void)
{
	struct context_tracking *ct = this_cpu_ptr(&context_tracking);

	if (ct->SYMBIOTIC_NMI_NESTING != 1) {
		WRITE_ONCE(ct->SYMBIOTIC_NMI_NESTING, ct->SYMBIOTIC_NMI_NESTING - 2);
		return;
	}
	WRITE_ONCE(ct->SYMBIOTIC_NMI_NESTING, 0);
	arch_atomic_add_return(SYMBIOTIC_WATCHING, &ct->state);
}

static __always_inline void symbiotic_enter(struct pt_regs *regs,
					    struct symbiotic_context *context)
{
	context->dr7 = local_db_save();
	context->irq.lockdep = lockdep_hardirqs_enabled();
	__nmi_enter();
	lockdep_hardirqs_off(CALLER_ADDR0);
	lockdep_hardirq_enter();
	symbiotic_rcu_enter();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

static __always_inline void symbiotic_leave(struct pt_regs *regs,
					    struct symbiotic_context *context)
{
	if (context->irq.lockdep) {
		instrumentation_begin();
		trace_hardirqs_on_prepare();
		lockdep_hardirqs_on_prepare();
		instrumentation_end();
	}
	symbiotic_rcu_leave();
	lockdep_hardirq_exit();
	if (context->irq.lockdep)
		lockdep_hardirqs_on(CALLER_ADDR0);
	__nmi_exit();
	local_db_restore(context->dr7);
}

/* The unwinders of a kernel that does not know this stack stop at it. */
static inline void symbiotic_announce_stack(void *top)
{
}

/*
 * The note for crash tools names what is not exported. It was written when the
 * kernel started; its text ends with a zero. The number behind the first
 * occurrence of a name, '=' included.
 */
static inline u64 symbiotic_noted(const char *name)
{
	const Elf64_Nhdr *note = __va(paddr_vmcoreinfo_note());
	const char *text = (const char *)(note + 1) + ALIGN(note->n_namesz, 4);
	const char *found;

	if (note->n_descsz > VMCOREINFO_BYTES)
		return SYMBIOTIC_UNKNOWN;
	found = strnstr(text, name, note->n_descsz);
	return found ? simple_strtoull(found + strlen(name), NULL, 16) : SYMBIOTIC_UNKNOWN;
}

static inline u64 symbiotic_kaslr_offset(void)
{
	return symbiotic_noted("KERNELOFFSET=");
}

static inline u64 symbiotic_kernel_pgd(void)
{
	u64 address = symbiotic_noted("SYMBOL(init_top_pgt)=");

	if (address == SYMBIOTIC_UNKNOWN)
		return SYMBIOTIC_UNKNOWN;
	return address - __START_KERNEL_map + phys_base;
}

static inline u64 symbiotic_vmcoreinfo(u32 *size)
{
	*size = VMCOREINFO_NOTE_SIZE;
	return paddr_vmcoreinfo_note();
}

/* Only what is free of it is exported. */
static inline u64 symbiotic_swap_total(void)
{
	return SYMBIOTIC_UNKNOWN;
}

#endif /* _SYMBIOTIC_REACH_H */
