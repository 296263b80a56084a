/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <sys/mman.h>

enum { MOST_PAGES = 64 };

/* A locked page has a page table entry: that is what locking promises. */
static void all_there(struct region *region, size_t from, size_t count)
{
	unsigned char there[MOST_PAGES];

	need(region->job, !mincore(region_page(region, from), count * PAGE, there), "mincore");
	for (size_t i = 0; i < count; i++)
		if (!(there[i] & 1))
			bad(region->job, "locked page %zu is not there", from + i);
}

static void once(struct region *region, uint64_t *state)
{
	size_t count = 1 + below(state, MOST_PAGES), from = below(state, region->pages - count);
	unsigned on_fault = below(state, 2) ? MLOCK_ONFAULT : 0;

	region_advise(region, from, count, MADV_PAGEOUT);
	if (mlock2(region_page(region, from), count * PAGE, on_fault)) {
		if (errno != EAGAIN && errno != ENOMEM)
			bad(region->job, "mlock2: %m");
	} else if (!on_fault) {
		all_there(region, from, count);
	}
	for (int i = 0; i < MOST_PAGES; i++)
		region_step(region, state);
	for (size_t i = from; i < from + count; i++)
		region_write(region, i);
	/* Refused for locked pages. */
	region_advise(region, from, count, MADV_PAGEOUT);
	if (munlock(region_page(region, from), count * PAGE))
		bad(region->job, "munlock: %m");
	region_advise(region, from, count, MADV_PAGEOUT);
	region_check(region, from);
}

void scenario_lock(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;

	need(job, region->pages > MOST_PAGES, "memory of this worker");
	region_fill(region);
	while (time_left(job))
		once(region, &state);
	region_verify(region);
	region_unmake(region);
}
