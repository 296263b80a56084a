/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver calls in the kernel and a module cannot, made of what it can. The module's build includes this file
 * before each of the driver's.
 */
#ifndef SYMBIOTIC_COMPAT_H
#define SYMBIOTIC_COMPAT_H

#include <linux/context_tracking.h>
#include <linux/entry-common.h>
#include <linux/hardirq.h>

/*
 * The kernel does not export irqentry_nmi_enter() nor the ct_nmi_enter() in it, by which RCU learns that this CPU reads
 * again when the interrupted context is the idle loop or, with nohz_full=, user mode. It does export the per-CPU state
 * that they work on, for KVM, and the header has its layout; so here is the same for a module. Left out are trace
 * points, KMSAN, and the hardware latency tracers.
 */
#if defined(CT_RCU_WATCHING)
#define SYMBIOTIC_WATCHING    CT_RCU_WATCHING
#define SYMBIOTIC_NMI_NESTING nmi_nesting
#elif defined(RCU_DYNTICKS_IDX) /* before Linux 6.12 */
#define SYMBIOTIC_WATCHING    RCU_DYNTICKS_IDX
#define SYMBIOTIC_NMI_NESTING dynticks_nmi_nesting
#else
#error "this kernel tells RCU about idle CPUs in a way that this file does not know"
#endif

/* The nesting counts by 2, and by 1 for the NMI that found RCU not watching: so 1 is what leads back there. */
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

static __always_inline void symbiotic_rcu_exit(void)
{
	struct context_tracking *ct = this_cpu_ptr(&context_tracking);

	if (ct->SYMBIOTIC_NMI_NESTING != 1) {
		WRITE_ONCE(ct->SYMBIOTIC_NMI_NESTING, ct->SYMBIOTIC_NMI_NESTING - 2);
		return;
	}
	WRITE_ONCE(ct->SYMBIOTIC_NMI_NESTING, 0);
	arch_atomic_add_return(SYMBIOTIC_WATCHING, &ct->state);
}

static __always_inline irqentry_state_t symbiotic_nmi_enter(struct pt_regs *regs)
{
	irqentry_state_t state = { .lockdep = lockdep_hardirqs_enabled() };

	__nmi_enter();
	lockdep_hardirqs_off(CALLER_ADDR0);
	lockdep_hardirq_enter();
	symbiotic_rcu_enter();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
	return state;
}

static __always_inline void symbiotic_nmi_exit(struct pt_regs *regs, irqentry_state_t state)
{
	if (state.lockdep) {
		instrumentation_begin();
		trace_hardirqs_on_prepare();
		lockdep_hardirqs_on_prepare();
		instrumentation_end();
	}
	symbiotic_rcu_exit();
	lockdep_hardirq_exit();
	if (state.lockdep)
		lockdep_hardirqs_on(CALLER_ADDR0);
	__nmi_exit();
}

#define irqentry_nmi_enter(regs)       symbiotic_nmi_enter(regs)
#define irqentry_nmi_exit(regs, state) symbiotic_nmi_exit(regs, state)

/* The driver's files define this as their first thing, which the headers above came before. */
#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#endif /* SYMBIOTIC_COMPAT_H */
