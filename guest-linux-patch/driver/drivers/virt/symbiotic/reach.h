/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All that this driver takes from the kernel and a module could not.
 */
#ifndef _SYMBIOTIC_REACH_H
#define _SYMBIOTIC_REACH_H

#include <linux/entry-common.h>
#include <linux/kexec.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <asm/debugreg.h>
#include <asm/setup.h>
#include <asm/stacktrace.h>

/* For struct symbiotic_facts. */
#define SYMBIOTIC_FACTS_FLAGS	0

struct symbiotic_context {
	irqentry_state_t irq;
	unsigned long dr7;
};

/*
 * The VMM may have interrupted anything, an NMI handler included: enter as an
 * NMI does. Breakpoints are off for the duration, because a #DB could find the
 * stack of another one in use.
 */
static __always_inline void symbiotic_enter(struct pt_regs *regs,
					    struct symbiotic_context *context)
{
	context->dr7 = local_db_save();
	context->irq = irqentry_nmi_enter(regs);
}

static __always_inline void symbiotic_leave(struct pt_regs *regs,
					    struct symbiotic_context *context)
{
	irqentry_nmi_exit(regs, context->irq);
	local_db_restore(context->dr7);
}

/* Tells the unwinders of the stack of this CPU; NULL: there is none. */
static inline void symbiotic_announce_stack(void *top)
{
	this_cpu_write(symcall_stack_ptr, top);
}

static inline u64 symbiotic_kaslr_offset(void)
{
	return kaslr_offset();
}

static inline u64 symbiotic_kernel_pgd(void)
{
	return __pa_symbol(swapper_pg_dir);
}

static inline u64 symbiotic_vmcoreinfo(u32 *size)
{
	if (!IS_ENABLED(CONFIG_VMCORE_INFO) && !IS_ENABLED(CONFIG_CRASH_CORE))
		return SYMBIOTIC_UNKNOWN;
	*size = VMCOREINFO_NOTE_SIZE;
	return paddr_vmcoreinfo_note();
}

static inline u64 symbiotic_swap_total(void)
{
	return (u64)total_swap_pages << PAGE_SHIFT;
}

#endif /* _SYMBIOTIC_REACH_H */
