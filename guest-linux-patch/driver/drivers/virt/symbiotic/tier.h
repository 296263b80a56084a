/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _SYMBIOTIC_TIER_H
#define _SYMBIOTIC_TIER_H

#include <linux/mm_types.h>
#include <linux/symbiotic.h>

#include "aperture.h"

/* Pages that are moved at a time. */
#define SYMBIOTIC_BATCH		256

/* Slots that the host has back, or not, together: what is a huge page there. */
#define SYMBIOTIC_BLOCK		512

/* slots.c: which pages of the aperture are free. One thread at a time, but for the first two. */
void symbiotic_slot_free(struct page *page);
unsigned long symbiotic_slots_used(void);
int symbiotic_slots_init(void);
void symbiotic_slots_exit(void);
struct page *symbiotic_slot_take(void);
void symbiotic_slots_drain(void);
bool symbiotic_slots_block_used(unsigned long block);
void symbiotic_slots_discard(bool all);
u64 symbiotic_slots_discarded(void);

/**
 * struct symbiotic_moved - events of moving, counted by one thread
 * @in: pages that were moved to the aperture
 * @out: pages that were moved to RAM
 * @stuck: attempts to do so that failed
 * @failed: pages that could not be moved to the aperture
 * @ahead: of @in, moved since memory was short
 * @behind: of @in, moved after they were swapped in
 * @declined: pages that the VMM did not want to have moved
 * @ns: how long all that took
 */
struct symbiotic_moved {
	u64 in;
	u64 out;
	u64 stuck;
	u64 failed;
	u64 ahead;
	u64 behind;
	u64 declined;
	u64 ns;
};

extern struct symbiotic_moved symbiotic_moved;

/* mover.c: with the tier's lock */
long symbiotic_move_range(struct mm_struct *mm, unsigned long start, unsigned long end,
			  u32 reason);
unsigned long symbiotic_evict(unsigned long wanted, gfp_t gfp);

/* shortage.c: whose pages are moved while memory is short */
unsigned long symbiotic_shortage(void);
unsigned long symbiotic_memory_mark(void);
unsigned long symbiotic_spare(void);
bool symbiotic_relieve(unsigned long wanted);
void symbiotic_relieve_forget(void);

/* follow.c: what was swapped in */
#ifdef CONFIG_KPROBES
int symbiotic_follow_start(void);
void symbiotic_follow_stop(void);
void symbiotic_follow(bool move);
u64 symbiotic_follow_seen(void);
u64 symbiotic_follow_missed(void);
#else
static inline int symbiotic_follow_start(void) { return -EOPNOTSUPP; }
static inline void symbiotic_follow_stop(void) { }
static inline void symbiotic_follow(bool move) { }
static inline u64 symbiotic_follow_seen(void) { return 0; }
static inline u64 symbiotic_follow_missed(void) { return 0; }
#endif

#endif /* _SYMBIOTIC_TIER_H */
