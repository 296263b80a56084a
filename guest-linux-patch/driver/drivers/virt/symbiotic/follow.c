// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: what was just swapped in moves to the aperture, so
 * that it is swapped in once. A probe at the kernel's handler of such faults
 * looks on, and changes nothing.
 *
 * It notes ranges of addresses and not faults: one that is near a range widens
 * it, and with all ranges taken the nearest one of the process. So only a
 * process that finds no range left goes unnoticed, until memory is short.
 */

#ifdef CONFIG_KPROBES

#include <linux/kprobes.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched/mm.h>
#include <linux/spinlock.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "tier.h"
#include "compat.h"

#define SYMBIOTIC_RANGES	64

/* Bytes around a fault that belong to it, and that ranges may lie apart and be one. */
#define SYMBIOTIC_AROUND	(64UL << 10)
#define SYMBIOTIC_NEAR		(2UL << 20)

/**
 * struct symbiotic_range - where a process had pages swapped in
 * @mm: the process, of which it holds the structure; NULL: not in use
 * @start: from here
 * @end: to here
 */
struct symbiotic_range {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
};

/* Under the lock. */
static DEFINE_RAW_SPINLOCK(symbiotic_ranges_lock);
static struct symbiotic_range symbiotic_ranges[SYMBIOTIC_RANGES];
static unsigned int symbiotic_nr_ranges;
static u64 symbiotic_seen;
static u64 symbiotic_missed;

static unsigned long symbiotic_distance(const struct symbiotic_range *range, unsigned long at)
{
	if (at < range->start)
		return range->start - at;
	return at < range->end ? 0 : at - range->end;
}

/* The range that a fault belongs to: one that is near, a new one, else any of its process. */
static struct symbiotic_range *symbiotic_range_of(struct mm_struct *mm, unsigned long at)
{
	struct symbiotic_range *range, *nearest = NULL;
	unsigned int i;

	for (i = 0; i < symbiotic_nr_ranges; i++) {
		range = &symbiotic_ranges[i];
		if (range->mm == mm && (!nearest || symbiotic_distance(range, at) <
						    symbiotic_distance(nearest, at)))
			nearest = range;
	}
	if (nearest && symbiotic_distance(nearest, at) <= SYMBIOTIC_NEAR)
		return nearest;
	if (symbiotic_nr_ranges == SYMBIOTIC_RANGES)
		return nearest;
	mmgrab(mm);
	range = &symbiotic_ranges[symbiotic_nr_ranges++];
	*range = (struct symbiotic_range){ .mm = mm, .start = at, .end = at };
	return range;
}

static void symbiotic_note(struct mm_struct *mm, unsigned long address)
{
	unsigned long at = ALIGN_DOWN(address, SYMBIOTIC_AROUND);
	struct symbiotic_range *range;
	unsigned long flags;

	raw_spin_lock_irqsave(&symbiotic_ranges_lock, flags);
	symbiotic_seen++;
	range = symbiotic_range_of(mm, at);
	if (range) {
		range->start = min(range->start, at);
		range->end = max(range->end, at + SYMBIOTIC_AROUND);
	} else {
		symbiotic_missed++;
	}
	raw_spin_unlock_irqrestore(&symbiotic_ranges_lock, flags);
}

/* do_swap_page(vmf), which has entries of other kinds as well. */
static int symbiotic_on_swap_fault(struct kprobe *probe, struct pt_regs *regs)
{
	const struct vm_fault *vmf = (const struct vm_fault *)regs->di;

	if (symbiotic_aperture_mode() != SYMBIOTIC_SWAP_OFF && symbiotic_is_swapped(vmf->orig_pte))
		symbiotic_note(vmf->vma->vm_mm, vmf->address);
	return 0;
}
NOKPROBE_SYMBOL(symbiotic_on_swap_fault);

static struct kprobe symbiotic_probe;

u64 symbiotic_follow_seen(void)
{
	return READ_ONCE(symbiotic_seen);
}

u64 symbiotic_follow_missed(void)
{
	return READ_ONCE(symbiotic_missed);
}

static bool symbiotic_range_next(struct symbiotic_range *range)
{
	unsigned long flags;
	bool any = false;

	raw_spin_lock_irqsave(&symbiotic_ranges_lock, flags);
	if (symbiotic_nr_ranges) {
		*range = symbiotic_ranges[--symbiotic_nr_ranges];
		any = true;
	}
	raw_spin_unlock_irqrestore(&symbiotic_ranges_lock, flags);
	return any;
}

static void symbiotic_follow_range(const struct symbiotic_range *range)
{
	long moved;

	if (!mmget_not_zero(range->mm))
		return;
	if (mmap_read_trylock(range->mm)) {
		moved = symbiotic_move_range(range->mm, range->start, range->end,
					     SYMBIOTIC_MOVE_BEHIND);
		mmap_read_unlock(range->mm);
		if (moved > 0)
			symbiotic_moved.behind += moved;
	}
	mmput_async(range->mm);
}

/* Moves what is in the ranges that were noted so far, or forgets them. */
void symbiotic_follow(bool move)
{
	struct symbiotic_range range;
	unsigned int i;

	for (i = 0; i < SYMBIOTIC_RANGES && symbiotic_range_next(&range); i++) {
		if (move)
			symbiotic_follow_range(&range);
		mmdrop(range.mm);
	}
}

int symbiotic_follow_start(void)
{
	symbiotic_probe = (struct kprobe){
		.symbol_name = "do_swap_page",
		.pre_handler = symbiotic_on_swap_fault,
	};
	return register_kprobe(&symbiotic_probe);
}

void symbiotic_follow_stop(void)
{
	unregister_kprobe(&symbiotic_probe);
	symbiotic_follow(false);
}

#endif /* CONFIG_KPROBES */
