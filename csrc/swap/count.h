/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much a swap store takes, for somebody who asks each second: counted chunk by chunk, no longer
 * at a time than some milliseconds, and added up with what the others had when they were counted
 * last.
 *
 * Chunks in use, those beside them, and those that the disk wrote to have three quarters of the
 * time; they are where a guest puts its pages next. The others share the rest.
 */
#ifndef PYVMM_SWAP_COUNT_H
#define PYVMM_SWAP_COUNT_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes that a chunk takes now. */
typedef uint64_t swapcount_chunk(const void *opaque, uint64_t chunk);

struct swapcount {
	uint64_t chunks;
	swapcount_chunk *count;
	const void *opaque;
	uint32_t *bytes;   /* of each chunk, when it was counted last */
	uint8_t *written;  /* atomic: since then, by the disk */
	uint64_t total;    /* of all of them */
	uint64_t busy_at;  /* where the next look begins among the chunks in use, */
	uint64_t quiet_at; /* and among the others */
};

/* A chunk takes less than 4 GiB. 0 or -ENOMEM; nothing counts as used so far. */
int swapcount_init(struct swapcount *count, uint64_t chunks, swapcount_chunk *function,
                   const void *opaque);
void swapcount_free(struct swapcount *count);

/* The disk wrote to a chunk; any thread. */
void swapcount_note(struct swapcount *count, uint64_t chunk);

/* Counts for about so long, in nanoseconds, 0 for as long as it takes to count all; some of each
 * kind in any case. The sum. One thread at a time. */
uint64_t swapcount_look(struct swapcount *count, uint64_t nanoseconds);

#endif
