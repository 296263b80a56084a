// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: the aperture as a second tier of memory, for a
 * kernel whose fault path knows nothing of it. One thread moves pages of
 * processes there while memory is short and behind what is swapped in, hands
 * pages back when the VMM asks for them, and gives free blocks to the host.
 *
 * The VMM keeps the swap disk closed meanwhile: what is in the aperture is in
 * use as memory.
 */

#define pr_fmt(fmt) "symbiotic: " fmt

#include <linux/irq_work.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/oom.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "internal.h"
#include "tier.h"
#include "compat.h"

static_assert(sizeof(struct symbiotic_swap_stats) == 248);
static_assert(sizeof(struct symbiotic_swap_stats) <= SYMBIOTIC_DATA_SIZE);

/* How often the thread looks: at rest, and with memory not far from short. */
#define SYMBIOTIC_SELDOM	(HZ / 20 ?: 1)
#define SYMBIOTIC_OFTEN		(HZ / 100 ?: 1)
/* Where the mode is off there is nothing to look for. */
#define SYMBIOTIC_OFF		HZ
/* A block that was free for so long is given back. */
#define SYMBIOTIC_DISCARD	(2 * HZ)
/* How long a task that is out of memory waits for some. */
#define SYMBIOTIC_OOM_WAIT	HZ
/* Pages moved for it. */
#define SYMBIOTIC_OOM_PAGES	4096UL
/* How often, and how long, the end waits for pages that are pinned, until it says so. */
#define SYMBIOTIC_TRIES		50
#define SYMBIOTIC_WAIT		(HZ / 50 + 1)

enum {
	SYMBIOTIC_TIER_ATTACHED_BIT,	/* and the VMM agrees */
	SYMBIOTIC_TIER_ENDING_BIT,
	SYMBIOTIC_TIER_WAKE_BIT,
	SYMBIOTIC_TIER_FOLLOWS_BIT,
};

/**
 * struct symbiotic_tier - what the thread has to do
 * @flags: SYMBIOTIC_TIER_*_BIT
 * @lock: held by the thread that moves pages
 * @thread: does so
 * @wake: what it sleeps on
 * @moved_some: tasks that are out of memory sleep on it
 * @irq: wakes it from any context
 * @wanted: pages that are still to be handed back
 * @oom: tasks that are out of memory
 * @discard_at: when free blocks are looked for next
 */
struct symbiotic_tier {
	unsigned long flags;
	struct mutex lock;
	struct task_struct *thread;
	wait_queue_head_t wake;
	wait_queue_head_t moved_some;
	struct irq_work irq;
	unsigned long wanted;
	atomic_t oom;
	unsigned long discard_at;
};

static struct symbiotic_tier symbiotic_tier = {
	.lock = __MUTEX_INITIALIZER(symbiotic_tier.lock),
	.wake = __WAIT_QUEUE_HEAD_INITIALIZER(symbiotic_tier.wake),
	.moved_some = __WAIT_QUEUE_HEAD_INITIALIZER(symbiotic_tier.moved_some),
};

#ifdef SYMBIOTIC_DEVICE_FOLIOS
static void symbiotic_tier_folio_free(struct folio *folio)
{
	symbiotic_slot_free(&folio->page);
}
#endif

static const struct dev_pagemap_ops symbiotic_tier_pagemap_ops = {
#ifdef SYMBIOTIC_DEVICE_FOLIOS
	.folio_free = symbiotic_tier_folio_free,
#else
	.page_free = symbiotic_slot_free,
#endif
};

static bool symbiotic_tier_has(int bit)
{
	return test_bit(bit, &symbiotic_tier.flags);
}

/* Whether pages may move to the aperture. */
static bool symbiotic_tier_moves(void)
{
	return symbiotic_tier_has(SYMBIOTIC_TIER_ATTACHED_BIT) &&
	       !symbiotic_tier_has(SYMBIOTIC_TIER_ENDING_BIT) &&
	       symbiotic_aperture_mode() != SYMBIOTIC_SWAP_OFF;
}

/* Any context. */
static void symbiotic_tier_wake(void)
{
	if (!test_and_set_bit(SYMBIOTIC_TIER_WAKE_BIT, &symbiotic_tier.flags))
		irq_work_queue(&symbiotic_tier.irq);
}

static void symbiotic_tier_irq(struct irq_work *work)
{
	wake_up(&symbiotic_tier.wake);
}

/* With the lock: what the VMM has asked for. */
static void symbiotic_tier_evict(struct symbiotic_tier *tier)
{
	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_EVICTING_BIT))
		return;
	/*
	 * Once over all pages. What stays is for the VMM to ask for again. Pages that
	 * make memory short would move back at once, or where the mode is off and
	 * nothing is swapped cost a process its life.
	 */
	symbiotic_evict(min(READ_ONCE(tier->wanted), symbiotic_spare()), SYMBIOTIC_EVICT_GFP);
	clear_bit_unlock(SYMBIOTIC_APERTURE_EVICTING_BIT, &symbiotic_aperture.flags);
}

/* With the lock: moves what should move. Returns jiffies to sleep. */
static long symbiotic_tier_move(struct symbiotic_tier *tier)
{
	unsigned long wanted = symbiotic_shortage();
	unsigned long mark = symbiotic_memory_mark();
	bool more = true;

	if (atomic_read(&tier->oom))
		wanted = max(wanted, SYMBIOTIC_OOM_PAGES);
	/* Pages that were swapped in while there is memory may stay in RAM. */
	symbiotic_follow(wanted || si_mem_available() < 2 * mark);
	if (wanted) {
		more = symbiotic_relieve(wanted);
		wake_up_all(&tier->moved_some);
		return more ? 0 : SYMBIOTIC_OFTEN;
	}
	return si_mem_available() < 2 * mark ? SYMBIOTIC_OFTEN : SYMBIOTIC_SELDOM;
}

static void symbiotic_tier_discard(struct symbiotic_tier *tier)
{
	if (time_before(jiffies, tier->discard_at) ||
	    !symbiotic_tier_has(SYMBIOTIC_TIER_ATTACHED_BIT))
		return;
	symbiotic_slots_discard(false);
	tier->discard_at = jiffies + SYMBIOTIC_DISCARD;
}

static long symbiotic_tier_turn(struct symbiotic_tier *tier)
{
	ktime_t began = ktime_get();
	long wait = SYMBIOTIC_OFF;

	mutex_lock(&tier->lock);
	symbiotic_slots_drain();
	symbiotic_tier_evict(tier);
	if (symbiotic_tier_moves())
		wait = symbiotic_tier_move(tier);
	else
		symbiotic_follow(false);
	symbiotic_slots_drain();
	symbiotic_tier_discard(tier);
	symbiotic_moved.ns += ktime_to_ns(ktime_sub(ktime_get(), began));
	mutex_unlock(&tier->lock);
	return wait;
}

static int symbiotic_tier_thread(void *data)
{
	struct symbiotic_tier *tier = data;
	long wait;

	/* Tasks that need memory wait for this thread. */
	set_user_nice(current, MIN_NICE);
	while (!kthread_should_stop()) {
		clear_bit(SYMBIOTIC_TIER_WAKE_BIT, &tier->flags);
		wait = symbiotic_tier_turn(tier);
		if (!wait) {
			cond_resched();
			continue;
		}
		wait_event_interruptible_timeout(tier->wake, kthread_should_stop() ||
						 symbiotic_tier_has(SYMBIOTIC_TIER_WAKE_BIT),
						 wait);
	}
	return 0;
}

/* A task is about to be killed for want of memory: some is made first, if possible. */
static int symbiotic_tier_oom(struct notifier_block *block, unsigned long unused, void *freed)
{
	struct symbiotic_tier *tier = &symbiotic_tier;
	u64 before = READ_ONCE(symbiotic_moved.in), after;

	if (current == tier->thread || !symbiotic_tier_moves())
		return NOTIFY_DONE;
	atomic_inc(&tier->oom);
	symbiotic_tier_wake();
	wait_event_timeout(tier->moved_some,
			   READ_ONCE(symbiotic_moved.in) - before >= SYMBIOTIC_BATCH ||
			   !symbiotic_tier_moves(), SYMBIOTIC_OOM_WAIT);
	atomic_dec(&tier->oom);
	after = READ_ONCE(symbiotic_moved.in);
	*(unsigned long *)freed += after - before;
	return NOTIFY_OK;
}

static struct notifier_block symbiotic_tier_oom_block = {
	.notifier_call = symbiotic_tier_oom,
};

/* See symbiotic_swap_evict() of swap.c: the same for the tier. */
int symbiotic_swap_evict(struct symbiotic_args *args)
{
	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return -ENODEV;
	if (test_and_set_bit_lock(SYMBIOTIC_APERTURE_EVICTING_BIT, &symbiotic_aperture.flags))
		return -EBUSY;
	WRITE_ONCE(symbiotic_tier.wanted, args->bx);
	args->bx = symbiotic_slots_used();
	symbiotic_tier_wake();
	return 0;
}

static u32 symbiotic_tier_flags(void)
{
	u32 flags = SYMBIOTIC_SWAP_TIER;

	if (symbiotic_tier_has(SYMBIOTIC_TIER_ATTACHED_BIT))
		flags |= SYMBIOTIC_SWAP_ATTACHED;
	if (symbiotic_aperture_has(SYMBIOTIC_APERTURE_EVICTING_BIT))
		flags |= SYMBIOTIC_SWAP_EVICTING;
	return flags;
}

/* Fills in what there is to tell, in any context: 0, or -ENODEV. */
int symbiotic_swap_collect(struct symbiotic_swap_stats *stats)
{
	const struct symbiotic_moved *moved = &symbiotic_moved;
	unsigned long used;

	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return -ENODEV;
	used = symbiotic_slots_used();
	*stats = (struct symbiotic_swap_stats){
		.size = sizeof(*stats),
		.flags = symbiotic_tier_flags(),
		.slots = symbiotic_aperture.nr_pages,
		.used = used,
		.adopted = used,
		.offered = symbiotic_follow_seen(),
		.adopted_total = READ_ONCE(moved->in),
		.refused_vmm = READ_ONCE(moved->declined),
		.freed = max(READ_ONCE(moved->in), (u64)used) - used,
		.evicted = READ_ONCE(moved->out),
		.evict_failed = READ_ONCE(moved->stuck),
		.moved_ahead = READ_ONCE(moved->ahead),
		.moved_behind = READ_ONCE(moved->behind),
		.move_failed = READ_ONCE(moved->failed),
		.follow_missed = symbiotic_follow_missed(),
		.discarded = symbiotic_slots_discarded(),
		.mover_ns = READ_ONCE(moved->ns),
	};
	return 0;
}

/* SYMCALL_SWAP_STATS: BX is the size of the struct in the data area. */
int symbiotic_swap_stats(struct symbiotic_args *args)
{
	args->bx = sizeof(struct symbiotic_swap_stats);
	return symbiotic_swap_collect(args->data);
}

/* Tells the VMM that the aperture is used, and makes the disk one that is not: 0 or an error. */
static int symbiotic_tier_attach(void)
{
	int error = symbiotic_aperture_attach(SYMBIOTIC_SWAP_AS_TIER);

	if (!error)
		set_bit(SYMBIOTIC_TIER_ATTACHED_BIT, &symbiotic_tier.flags);
	else if (error == -EBUSY)
		pr_warn("the swap disk holds data and stays a disk: empty it (swapoff, blkdiscard) and load this again\n");
	else
		pr_warn("the VMM refuses its swap disk: error %d\n", error);
	return error;
}

/* Again, after a suspend. */
void symbiotic_swap_attach(void)
{
	if (symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		symbiotic_tier_attach();
}

/* From now on nothing moves. What is in the aperture stays in use. */
void symbiotic_swap_detach(void)
{
	if (test_and_clear_bit(SYMBIOTIC_TIER_ATTACHED_BIT, &symbiotic_tier.flags))
		symbiotic_aperture_detach();
}

/* Moves all pages to RAM; some are in use, or there is no memory: -EBUSY. */
static int symbiotic_tier_empty(void)
{
	int tries;

	for (tries = 0; tries < SYMBIOTIC_TRIES; tries++) {
		mutex_lock(&symbiotic_tier.lock);
		symbiotic_evict(ULONG_MAX, GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
		symbiotic_slots_drain();
		mutex_unlock(&symbiotic_tier.lock);
		if (!symbiotic_slots_used())
			return 0;
		schedule_timeout_uninterruptible(SYMBIOTIC_WAIT);
	}
	return -EBUSY;
}

/* The image of a hibernation has the guest's RAM and nothing else. */
int symbiotic_swap_freeze(void)
{
	int error;

	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return symbiotic_slots_used() ? -EBUSY : 0;
	set_bit(SYMBIOTIC_APERTURE_HIBERNATING_BIT, &symbiotic_aperture.flags);
	error = symbiotic_tier_empty();
	if (!error)
		return 0;
	symbiotic_swap_thaw();
	pr_warn("no hibernation: %lu pages of the swap disk stay in use\n",
		symbiotic_slots_used());
	return error;
}

void symbiotic_swap_thaw(void)
{
	clear_bit(SYMBIOTIC_APERTURE_HIBERNATING_BIT, &symbiotic_aperture.flags);
}

static int __init symbiotic_tier_run(struct symbiotic_tier *tier)
{
	init_irq_work(&tier->irq, symbiotic_tier_irq);
	tier->discard_at = jiffies;
	tier->thread = kthread_run(symbiotic_tier_thread, tier, "symbiotic-tier");
	if (IS_ERR(tier->thread))
		return PTR_ERR(tier->thread);
	if (symbiotic_follow_start())
		pr_warn("swap-ins are not followed: no probe at do_swap_page()\n");
	else
		set_bit(SYMBIOTIC_TIER_FOLLOWS_BIT, &tier->flags);
	register_oom_notifier(&symbiotic_tier_oom_block);
	set_bit(SYMBIOTIC_APERTURE_READY_BIT, &symbiotic_aperture.flags);
	return 0;
}

static int __init symbiotic_tier_start(const struct symbiotic_vm_page *page)
{
	int error = symbiotic_aperture_map(page, &symbiotic_tier_pagemap_ops);

	if (error)
		return error;
	error = symbiotic_slots_init();
	if (!error) {
		error = symbiotic_tier_run(&symbiotic_tier);
		if (!error)
			return 0;
		symbiotic_slots_exit();
	}
	symbiotic_aperture_unmap();
	return error;
}

/* A swap disk that cannot be used in this way works as any other. */
void __init symbiotic_swap_init(const struct symbiotic_vm_page *page)
{
	int error;

	if (!symbiotic_aperture_offered(page))
		return;
	symbiotic_aperture.page = page;
	/* A VMM that wants no more than a disk does not find it closed. */
	if (symbiotic_aperture_mode() == SYMBIOTIC_SWAP_OFF)
		return;
	if (symbiotic_tier_attach())
		return;
	error = symbiotic_tier_start(page);
	if (!error) {
		pr_info("pages may move to %llu MiB beyond RAM\n", page->aperture_size >> 20);
		return;
	}
	symbiotic_swap_detach();
	pr_warn("the memory of the swap disk is not used: error %d\n", error);
}

/*
 * The end of the module, which nothing can refuse: waits until the last page is
 * out of the aperture. One that is pinned, or that no RAM is there for, keeps it
 * waiting; all else goes on meanwhile.
 */
void symbiotic_swap_exit(void)
{
	struct symbiotic_tier *tier = &symbiotic_tier;

	if (!test_and_clear_bit(SYMBIOTIC_APERTURE_READY_BIT, &symbiotic_aperture.flags))
		return;
	set_bit(SYMBIOTIC_TIER_ENDING_BIT, &tier->flags);
	/* Symcalls that are under way have seen what was. */
	synchronize_rcu();
	wake_up_all(&tier->moved_some);
	unregister_oom_notifier(&symbiotic_tier_oom_block);
	if (symbiotic_tier_has(SYMBIOTIC_TIER_FOLLOWS_BIT))
		symbiotic_follow_stop();
	kthread_stop(tier->thread);
	irq_work_sync(&tier->irq);
	symbiotic_relieve_forget();
	while (symbiotic_tier_empty())
		pr_warn("%lu pages of the swap disk stay in use: the module waits for them\n",
			symbiotic_slots_used());
	if (symbiotic_tier_has(SYMBIOTIC_TIER_ATTACHED_BIT))
		symbiotic_slots_discard(true);
	symbiotic_swap_detach();
	symbiotic_aperture_unmap();
	symbiotic_slots_exit();
}
