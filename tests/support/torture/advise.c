/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

enum { MOST_PAGES = 64 };

/* What changes no contents. */
static const int harmless[] = {MADV_PAGEOUT, MADV_COLD, MADV_WILLNEED, MADV_POPULATE_READ,
                               MADV_POPULATE_WRITE};

static void drop(struct region *region, size_t from, size_t count)
{
	if (!region_advise(region, from, count, MADV_DONTNEED))
		bad(region->job, "MADV_DONTNEED: %m");
	memset(region->versions + from, 0, count * sizeof(*region->versions));
}

/* Until it is written again, a page that was let go holds what it held, or zeros. */
static void let_go(struct region *region, size_t from, size_t count, uint64_t *state)
{
	if (!region_advise(region, from, count, MADV_FREE))
		bad(region->job, "MADV_FREE: %m");
	if (below(state, 2))
		region_advise(region, from, count, MADV_PAGEOUT);
	for (size_t i = from; i < from + count; i++) {
		if (!holds(region_page(region, i), PAGE, (struct tag){0}))
			region_check(region, i);
		region_write(region, i);
	}
}

static void advise(struct region *region, size_t from, size_t count, int advice)
{
	/* There may be no memory for it. */
	if (!region_advise(region, from, count, advice) && errno == EFAULT)
		bad(region->job, "madvise(%d): %m", advice);
}

static void once(struct region *region, uint64_t *state)
{
	size_t count = 1 + below(state, MOST_PAGES), kinds = sizeof(harmless) / sizeof(*harmless);
	size_t from = below(state, region->pages - count), kind = below(state, kinds + 4);

	if (kind < kinds)
		advise(region, from, count, harmless[kind]);
	else if (kind == kinds)
		drop(region, from, count);
	else if (kind == kinds + 1)
		let_go(region, from, count, state);
	else
		region_advise(region, from, count, MADV_PAGEOUT);
	for (size_t i = from; i < from + count; i++)
		if (below(state, 4))
			region_check(region, i);
	region_step(region, state);
}

void scenario_advise(struct job *job)
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
