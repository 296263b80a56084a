/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/count.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

int swapcount_init(struct swapcount *count, uint64_t chunks, swapcount_chunk *function,
                   const void *opaque)
{
	*count = (struct swapcount){
	        .chunks = chunks,
	        .count = function,
	        .opaque = opaque,
	        .bytes = calloc(chunks, sizeof(*count->bytes)),
	        .written = calloc(chunks, sizeof(*count->written)),
	};
	if (count->bytes && count->written)
		return 0;
	swapcount_free(count);
	return -ENOMEM;
}

void swapcount_free(struct swapcount *count)
{
	free(count->bytes);
	free(count->written);
	count->bytes = NULL;
	count->written = NULL;
}

void swapcount_note(struct swapcount *count, uint64_t chunk)
{
	if (chunk < count->chunks)
		__atomic_store_n(&count->written[chunk], 1, __ATOMIC_RELAXED);
}

static bool is_used(const struct swapcount *count, uint64_t chunk)
{
	return chunk < count->chunks &&
	       (count->bytes[chunk] || __atomic_load_n(&count->written[chunk], __ATOMIC_RELAXED));
}

/* For the first chunk `chunk - 1` is none. */
static bool is_busy(const struct swapcount *count, uint64_t chunk)
{
	return is_used(count, chunk) || is_used(count, chunk + 1) || is_used(count, chunk - 1);
}

static void count_chunk(struct swapcount *count, uint64_t chunk)
{
	uint32_t found;

	__atomic_store_n(&count->written[chunk], 0, __ATOMIC_RELAXED);
	found = (uint32_t)count->count(count->opaque, chunk);
	count->total += found;
	count->total -= count->bytes[chunk];
	count->bytes[chunk] = found;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Once round at most, over the chunks of one kind. */
static void go_round(struct swapcount *count, uint64_t *at, bool busy, uint64_t nanoseconds)
{
	uint64_t end = now_ns() + nanoseconds;

	for (uint64_t seen = 0; seen < count->chunks; seen++) {
		uint64_t chunk = *at;

		*at = chunk + 1 < count->chunks ? chunk + 1 : 0;
		if (is_busy(count, chunk) != busy)
			continue;
		count_chunk(count, chunk);
		if (now_ns() >= end)
			break;
	}
}

uint64_t swapcount_look(struct swapcount *count, uint64_t nanoseconds)
{
	if (!nanoseconds) {
		for (uint64_t chunk = 0; chunk < count->chunks; chunk++)
			count_chunk(count, chunk);
	} else {
		go_round(count, &count->quiet_at, false, nanoseconds / 4);
		go_round(count, &count->busy_at, true, nanoseconds / 4 * 3);
	}
	return count->total;
}
