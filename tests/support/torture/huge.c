/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { HUGE_PAGES = 512, STEPS = 128 };

#define THP "/sys/kernel/mm/transparent_hugepage/"

static struct region *aligned(struct job *job, size_t pages)
{
	size_t bytes = pages * PAGE, huge = HUGE_PAGES * PAGE;
	char *at = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	                0);

	need(job, at != MAP_FAILED, "mmap");
	at += huge - (uintptr_t)at % huge;
	need(job, !madvise(at, bytes, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	return region_over(job, at, pages);
}

/* Some small pages of a huge one go out, or are let go, and the rest is collapsed again. */
static void split(struct region *region, uint64_t *state)
{
	size_t from = below(state, region->pages / HUGE_PAGES) * HUGE_PAGES;
	size_t inside = from + below(state, HUGE_PAGES / 2), count = 1 + below(state, 64);

	if (below(state, 4)) {
		region_advise(region, inside, count, MADV_PAGEOUT);
	} else {
		if (!region_advise(region, inside, count, MADV_DONTNEED))
			bad(region->job, "MADV_DONTNEED: %m");
		memset(region->versions + inside, 0, count * sizeof(*region->versions));
	}
	for (int i = 0; i < STEPS; i++)
		region_step(region, state);
	if (below(state, 2) && !region_advise(region, from, HUGE_PAGES, MADV_COLLAPSE) &&
	    errno == EFAULT)
		bad(region->job, "MADV_COLLAPSE: %m");
	for (size_t i = inside; i < inside + count; i++)
		region_check(region, i);
}

void scenario_huge(struct job *job)
{
	struct region *region;
	uint64_t state = job->seed;

	need(job, job->pages >= HUGE_PAGES, "memory of this worker, at least 2 MiB");
	need(job, put(THP "khugepaged/scan_sleep_millisecs", "50"), THP);
	region = aligned(job, job->pages / HUGE_PAGES * HUGE_PAGES);
	region_fill(region);
	while (time_left(job)) {
		split(region, &state);
		if (!below(&state, 16))
			put(THP "enabled", below(&state, 2) ? "always" : "madvise");
	}
	region_verify(region);
	put(THP "enabled", "madvise");
}
