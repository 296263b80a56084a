// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: which numbers the VMM may call, and what happens
 * when it does.
 */

#include <linux/hashtable.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "internal.h"
#include "reach.h"

/* Read by symcalls under RCU, written under the mutex. */
static DEFINE_HASHTABLE(symbiotic_calls, 6);
static DEFINE_MUTEX(symbiotic_calls_lock);

static struct symbiotic_call *symbiotic_find_call(u32 number)
{
	struct symbiotic_call *call;

	hash_for_each_possible_rcu(symbiotic_calls, call, node, number,
				   lockdep_is_held(&symbiotic_calls_lock)) {
		if (call->number == number)
			return call;
	}
	return NULL;
}

static int symbiotic_run(unsigned long number, struct symbiotic_args *args)
{
	struct symbiotic_call *call = NULL;
	int error;

	if (number <= U32_MAX)
		call = symbiotic_find_call(number);
	if (!call) {
		this_cpu_inc(symbiotic_cpus.unknown);
		return -SYMBIOTIC_NO_CALL;
	}
	error = call->fn(args);
	this_cpu_inc(call->stats->calls);
	if (error < 0)
		this_cpu_inc(call->stats->errors);
	return error;
}

static void symbiotic_dispatch(struct pt_regs *regs)
{
	struct symbiotic_args args = {
		.bx = regs->bx,
		.cx = regs->cx,
		.dx = regs->dx,
		.si = regs->si,
		.di = regs->di,
		.data = this_cpu_read(symbiotic_cpus.page)->data,
	};
	int error;

	/* Whoever unregisters a call waits for this to end. */
	rcu_read_lock();
	error = symbiotic_run(regs->ax, &args);
	rcu_read_unlock();

	if (error < 0)
		args = (struct symbiotic_args){ .bx = -error };
	regs->ax = error < 0 ? SYMBIOTIC_ERROR : SYMBIOTIC_RETURN;
	regs->bx = args.bx;
	regs->cx = args.cx;
	regs->dx = args.dx;
	regs->si = args.si;
	regs->di = args.di;
}

/* Called by symbiotic_entry, with interrupts off and the CPU in any state. */
noinstr void symbiotic_symcall(struct pt_regs *regs)
{
	struct symbiotic_context context;

	symbiotic_enter(regs, &context);
	instrumentation_begin();
	symbiotic_dispatch(regs);
	instrumentation_end();
	symbiotic_leave(regs, &context);
}

static struct symbiotic_call *symbiotic_new_call(u32 number, symbiotic_call_fn fn,
						 struct module *owner)
{
	struct symbiotic_call *call = kzalloc(sizeof(*call), GFP_KERNEL);

	if (!call)
		return NULL;
	call->stats = alloc_percpu(struct symbiotic_stats);
	if (!call->stats) {
		kfree(call);
		return NULL;
	}
	call->number = number;
	call->fn = fn;
	call->owner = owner;
	return call;
}

static void symbiotic_free_call(struct symbiotic_call *call)
{
	free_percpu(call->stats);
	kfree(call);
}

static int symbiotic_add_call(u32 number, symbiotic_call_fn fn, struct module *owner)
{
	struct symbiotic_call *call = symbiotic_new_call(number, fn, owner);

	if (!call)
		return -ENOMEM;
	mutex_lock(&symbiotic_calls_lock);
	if (symbiotic_find_call(number)) {
		mutex_unlock(&symbiotic_calls_lock);
		symbiotic_free_call(call);
		return -EEXIST;
	}
	hash_add_rcu(symbiotic_calls, &call->node, number);
	mutex_unlock(&symbiotic_calls_lock);
	return 0;
}

static void symbiotic_remove_call(u32 number)
{
	struct symbiotic_call *call;

	mutex_lock(&symbiotic_calls_lock);
	call = symbiotic_find_call(number);
	if (call)
		hash_del_rcu(&call->node);
	mutex_unlock(&symbiotic_calls_lock);
	if (!call)
		return;
	synchronize_rcu();
	symbiotic_free_call(call);
}

/* See symbiotic_register_call(). */
int __symbiotic_register_call(u32 number, symbiotic_call_fn fn, struct module *owner)
{
	if (number < SYMCALL_USER_FIRST || number > SYMCALL_USER_LAST)
		return -EINVAL;
	return symbiotic_add_call(number, fn, owner);
}
EXPORT_SYMBOL_GPL(__symbiotic_register_call);

/**
 * symbiotic_unregister_call - withdraw a symcall
 * @number: a number that the caller registered
 *
 * Sleeps until no CPU runs the handler any more.
 */
void symbiotic_unregister_call(u32 number)
{
	if (number >= SYMCALL_USER_FIRST && number <= SYMCALL_USER_LAST)
		symbiotic_remove_call(number);
}
EXPORT_SYMBOL_GPL(symbiotic_unregister_call);

void symbiotic_visit_calls(symbiotic_visit_fn visit, void *context)
{
	struct symbiotic_call *call;
	int bucket;

	mutex_lock(&symbiotic_calls_lock);
	hash_for_each(symbiotic_calls, bucket, call, node)
		visit(call, context);
	mutex_unlock(&symbiotic_calls_lock);
}

static int symbiotic_test(struct symbiotic_args *args)
{
	args->bx++;
	args->cx++;
	args->dx++;
	args->si++;
	args->di++;
	return 0;
}

static const struct {
	u32 number;
	symbiotic_call_fn fn;
} symbiotic_own_calls[] = {
	{ SYMCALL_TEST, symbiotic_test },
	{ SYMCALL_MEM_LOOKUP, symbiotic_mem_lookup },
	{ SYMCALL_KERNEL_FACTS, symbiotic_kernel_facts },
	{ SYMCALL_CURRENT_TASK, symbiotic_current_task },
	{ SYMCALL_TASKS, symbiotic_tasks },
	{ SYMCALL_MEMORY, symbiotic_memory },
	{ SYMCALL_READ, symbiotic_read },
#ifdef SYMBIOTIC_HAS_APERTURE
	{ SYMCALL_SWAP_STATS, symbiotic_swap_stats },
	{ SYMCALL_SWAP_EVICT, symbiotic_swap_evict },
#endif
};

/* Adds the driver's own calls: all of them, or none and an error. */
int symbiotic_add_calls(void)
{
	int i, error;

	for (i = 0; i < ARRAY_SIZE(symbiotic_own_calls); i++) {
		error = symbiotic_add_call(symbiotic_own_calls[i].number,
					   symbiotic_own_calls[i].fn, THIS_MODULE);
		if (error) {
			symbiotic_remove_calls();
			return error;
		}
	}
	return 0;
}

void symbiotic_remove_calls(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(symbiotic_own_calls); i++)
		symbiotic_remove_call(symbiotic_own_calls[i].number);
}
