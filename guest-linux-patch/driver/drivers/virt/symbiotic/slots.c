// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: which pages of the aperture are free. They are
 * taken from blocks of 2 MiB that are in use already, so that whole blocks
 * become free, whose memory goes back to the host.
 *
 * A page may be freed in any context; then it waits on a lock-free list until
 * the one thread that takes pages has time for it.
 */

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/llist.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "internal.h"
#include "tier.h"
#include "compat.h"

/**
 * struct symbiotic_slots - the pages of the aperture
 * @freed: those that wait to be marked as free
 * @used: how many are in use, those on @freed not among them
 * @free: a bit for each that is free. Slot 0, the header of the disk, never is
 * @counts: how many of a block are not free
 * @partial: a bit for each block with some of both kinds
 * @given: a bit for each block that the host may have given memory for
 * @idle: of these, blocks that were free when discards were made last
 * @nr_blocks: how many blocks there are
 * @discarded: slots that were discarded
 */
struct symbiotic_slots {
	struct llist_head freed;
	atomic_long_t used;
	unsigned long *free;
	u16 *counts;
	unsigned long *partial;
	unsigned long *given;
	unsigned long *idle;
	unsigned long nr_blocks;
	u64 discarded;
};

static struct symbiotic_slots symbiotic_slots;

/* The last reference to a page is gone. Any context. */
void symbiotic_slot_free(struct page *page)
{
	symbiotic_aperture_clean(page);
	atomic_long_dec(&symbiotic_slots.used);
	llist_add((struct llist_node *)&page->zone_device_data, &symbiotic_slots.freed);
}

unsigned long symbiotic_slots_used(void)
{
	return atomic_long_read(&symbiotic_slots.used);
}

u64 symbiotic_slots_discarded(void)
{
	return READ_ONCE(symbiotic_slots.discarded);
}

static unsigned int symbiotic_block_room(unsigned long block)
{
	return block ? SYMBIOTIC_BLOCK : SYMBIOTIC_BLOCK - 1;
}

bool symbiotic_slots_block_used(unsigned long block)
{
	return symbiotic_slots.counts[block];
}

static void symbiotic_block_changed(struct symbiotic_slots *slots, unsigned long block)
{
	unsigned int count = slots->counts[block];

	if (count && count < symbiotic_block_room(block))
		__set_bit(block, slots->partial);
	else
		__clear_bit(block, slots->partial);
}

/* Marks as free what was freed since the last time. */
void symbiotic_slots_drain(void)
{
	struct symbiotic_slots *slots = &symbiotic_slots;
	struct llist_node *node = llist_del_all(&slots->freed), *next;

	for (; node; node = next) {
		struct page *page = container_of((void **)node, struct page, zone_device_data);
		unsigned long slot = page - symbiotic_aperture.pages;

		next = node->next;
		__set_bit(slot, slots->free);
		slots->counts[slot / SYMBIOTIC_BLOCK]--;
		symbiotic_block_changed(slots, slot / SYMBIOTIC_BLOCK);
	}
}

/* A block with free slots: one in use, else one that the host has memory for, else any. */
static unsigned long symbiotic_block_choose(const struct symbiotic_slots *slots)
{
	unsigned long block = find_first_bit(slots->partial, slots->nr_blocks);

	if (block < slots->nr_blocks)
		return block;
	for_each_set_bit(block, slots->given, slots->nr_blocks) {
		if (!slots->counts[block])
			return block;
	}
	for_each_clear_bit(block, slots->given, slots->nr_blocks) {
		if (!slots->counts[block])
			return block;
	}
	return slots->nr_blocks;
}

/* A page, locked and with one reference; NULL if none is free. */
struct page *symbiotic_slot_take(void)
{
	struct symbiotic_slots *slots = &symbiotic_slots;
	unsigned long block = symbiotic_block_choose(slots), slot;
	struct page *page;

	if (block >= slots->nr_blocks)
		return NULL;
	slot = find_next_bit(slots->free, symbiotic_aperture.nr_pages, block * SYMBIOTIC_BLOCK);
	if (WARN_ON_ONCE(slot / SYMBIOTIC_BLOCK != block))
		return NULL;
	__clear_bit(slot, slots->free);
	slots->counts[block]++;
	symbiotic_block_changed(slots, block);
	__set_bit(block, slots->given);
	__clear_bit(block, slots->idle);
	atomic_long_inc(&slots->used);
	page = symbiotic_aperture.pages + slot;
#ifdef SYMBIOTIC_DEVICE_FOLIOS
	zone_device_page_init(page, &symbiotic_aperture.pgmap, 0);
#else
	zone_device_page_init(page);
#endif
	return page;
}

/* The VMM takes so many slots a call: 0, or an error and all is as before. */
static int symbiotic_discard_run(struct symbiotic_slots *slots, unsigned long block,
				 unsigned long nr_blocks)
{
	unsigned long first = max(block * SYMBIOTIC_BLOCK, 1UL);
	struct symbiotic_args args = {
		.bx = first,
		.cx = (block + nr_blocks) * SYMBIOTIC_BLOCK - first,
	};
	u64 count = args.cx;
	int error = symbiotic_hypercall(SYMBIOTIC_SWAP_DISCARD, &args);

	if (error)
		return error;
	bitmap_clear(slots->given, block, nr_blocks);
	bitmap_clear(slots->idle, block, nr_blocks);
	slots->discarded += count;
	return 0;
}

static bool symbiotic_block_is_idle(const struct symbiotic_slots *slots, unsigned long block,
				    bool all)
{
	return test_bit(block, slots->given) && !slots->counts[block] &&
	       (all || test_bit(block, slots->idle));
}

/* Gives back blocks that were free the last time already; with @all, each free one. */
void symbiotic_slots_discard(bool all)
{
	struct symbiotic_slots *slots = &symbiotic_slots;
	const unsigned long most = SYMBIOTIC_SWAP_DISCARD_SLOTS / SYMBIOTIC_BLOCK;
	unsigned long block, end;

	for (block = 0; block < slots->nr_blocks; block = end) {
		block = find_next_bit(slots->given, slots->nr_blocks, block);
		end = block;
		while (end < slots->nr_blocks && end - block < most &&
		       symbiotic_block_is_idle(slots, end, all))
			end++;
		if (end > block) {
			if (symbiotic_discard_run(slots, block, end - block))
				return;
			cond_resched();
		} else if (block < slots->nr_blocks) {
			if (!slots->counts[block])
				__set_bit(block, slots->idle);
			end = block + 1;
		}
	}
}

int symbiotic_slots_init(void)
{
	struct symbiotic_slots *slots = &symbiotic_slots;
	unsigned long nr_pages = symbiotic_aperture.nr_pages;
	unsigned long nr_blocks = nr_pages / SYMBIOTIC_BLOCK;

	init_llist_head(&slots->freed);
	atomic_long_set(&slots->used, 0);
	slots->nr_blocks = nr_blocks;
	slots->free = kvcalloc(BITS_TO_LONGS(nr_pages), sizeof(long), GFP_KERNEL);
	slots->counts = kvcalloc(nr_blocks, sizeof(*slots->counts), GFP_KERNEL);
	slots->partial = kvcalloc(BITS_TO_LONGS(nr_blocks), sizeof(long), GFP_KERNEL);
	slots->given = kvcalloc(BITS_TO_LONGS(nr_blocks), sizeof(long), GFP_KERNEL);
	slots->idle = kvcalloc(BITS_TO_LONGS(nr_blocks), sizeof(long), GFP_KERNEL);
	if (!slots->free || !slots->counts || !slots->partial || !slots->given || !slots->idle) {
		symbiotic_slots_exit();
		return -ENOMEM;
	}
	bitmap_set(slots->free, 1, nr_pages - 1);
	/* The last user of the aperture may have left something there. */
	bitmap_set(slots->given, 0, nr_blocks);
	return 0;
}

void symbiotic_slots_exit(void)
{
	struct symbiotic_slots *slots = &symbiotic_slots;

	kvfree(slots->free);
	kvfree(slots->counts);
	kvfree(slots->partial);
	kvfree(slots->given);
	kvfree(slots->idle);
	slots->free = slots->partial = slots->given = slots->idle = NULL;
	slots->counts = NULL;
}
