/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Swap areas whose contents the CPU can address: a fault maps the page where
 * it lies, and need not read it.
 */
#ifndef _LINUX_SWAP_BYPASS_H
#define _LINUX_SWAP_BYPASS_H

#include <linux/err.h>
#include <linux/llist.h>
#include <linux/memremap.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/swap.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct block_device;
struct swap_bypass;
struct vm_fault;

/**
 * enum swap_bypass_mode - what faults and reclaim do with the area
 * @SWAP_BYPASS_OFF: what they do with any other
 * @SWAP_BYPASS_ASK: the provider writes the page table entry, or declines
 * @SWAP_BYPASS_DIRECT: the fault handler writes it
 */
enum swap_bypass_mode {
	SWAP_BYPASS_OFF,
	SWAP_BYPASS_ASK,
	SWAP_BYPASS_DIRECT,
};

/**
 * struct swap_bypass_ops - what a provider of such an area does
 * @match: whether a block device is the area; may sleep
 * @mode: what is to be done now; any context
 * @map: writes @pte for @address, where the entry of page @offset is now
 *	 @vmf->orig_pte, with the page table locked; false: read the page instead
 */
struct swap_bypass_ops {
	bool (*match)(struct swap_bypass *bypass, struct block_device *bdev);
	enum swap_bypass_mode (*mode)(struct swap_bypass *bypass);
	bool (*map)(struct swap_bypass *bypass, struct vm_fault *vmf,
		    unsigned long offset, pte_t pte);
};

/**
 * struct swap_bypass_stats - events, counted on each CPU
 * @offered: faults that could take a page of the area, if it is not in the swap cache
 * @adopted: pages that were taken as they lie
 * @asked: of those, mapped by the provider
 * @shared: not taken, since another process has the entry too
 * @off: not taken, since the mode was off or the area is going away
 * @declined: not taken, since the provider declined
 * @lost: taken, and given back, because the fault had been handled meanwhile
 * @freed: adopted pages that were freed, or moved
 * @moved: adopted pages that were moved to RAM
 * @stuck: attempts to do so that failed
 * @out: pages written by copying them
 * @in: pages read by copying them
 * @zeroed: adopted pages whose content was known to be zero and not written
 */
struct swap_bypass_stats {
	u64 offered;
	u64 adopted;
	u64 asked;
	u64 shared;
	u64 off;
	u64 declined;
	u64 lost;
	u64 freed;
	u64 moved;
	u64 stuck;
	u64 out;
	u64 in;
	u64 zeroed;
};

/**
 * struct swap_bypass - memory that a swap area consists of
 * @pages: the page of offset 0; all are MEMORY_DEVICE_COHERENT
 * @nr_pages: how many there are
 * @ops: what the provider does
 * @stats: events
 * @si: the area while it is in use, else NULL
 * @adopted: pages that are mapped, or otherwise referred to, where they lie, or
 *	     are about to be
 * @freed: pages whose last reference went where a slot cannot be freed
 * @free_work: frees their slots
 * @evicting: one pass over the pages at a time
 * @cursor: where the last partial pass ended
 * @stuck: offsets of pages that could not be moved, not tried again for a while
 * @nr_stuck: how many were put there
 * @stuck_until: when they are forgotten
 */
struct swap_bypass {
	struct page *pages;
	unsigned long nr_pages;
	const struct swap_bypass_ops *ops;
	struct swap_bypass_stats __percpu *stats;

	/* private: */
	struct swap_info_struct *si;
	atomic_long_t adopted;
	struct llist_head freed;
	struct work_struct free_work;
	struct mutex evicting;		/* held for a pass */
	unsigned long cursor;
	struct xarray stuck;
	unsigned long nr_stuck;
	unsigned long stuck_until;
};

#ifdef CONFIG_SWAP_BYPASS

int swap_bypass_register(struct swap_bypass *bypass);
void swap_bypass_page_free(struct swap_bypass *bypass, struct page *page);
int swap_bypass_evict(struct swap_bypass *bypass, unsigned long nr_pages, gfp_t gfp);
int swap_bypass_evict_all(struct swap_bypass *bypass);
void swap_bypass_sum(struct swap_bypass *bypass, struct swap_bypass_stats *sum);
unsigned long swap_bypass_used(struct swap_bypass *bypass);

#endif /* CONFIG_SWAP_BYPASS */

#endif /* _LINUX_SWAP_BYPASS_H */
