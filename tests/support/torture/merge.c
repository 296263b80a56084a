/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <sys/mman.h>

/* So many pages are alike; few are written, so that there is something to merge. */
enum { ALIKE = 8, STEPS = 64, RARE = 512 };

#define KSM "/sys/kernel/mm/ksm/"

static void once(struct region *region, uint64_t *state)
{
	size_t i = below(state, region->pages);

	region_check(region, i);
	if (!below(state, RARE))
		region_write(region, i);
	if (!below(state, RARE))
		region_page_out(region);
}

void scenario_merge(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;

	need(job, put(KSM "pages_to_scan", "500") && put(KSM "sleep_millisecs", "20"), KSM);
	need(job, put(KSM "run", "1"), KSM "run");
	need(job, region_advise(region, 0, region->pages, MADV_MERGEABLE), "MADV_MERGEABLE");
	for (size_t i = 0; i < region->pages; i++)
		region->names[i] %= ALIKE;
	region_fill(region);
	while (time_left(job))
		for (int i = 0; i < STEPS; i++)
			once(region, &state);
	region_verify(region);
	need(job, region_advise(region, 0, region->pages, MADV_UNMERGEABLE), "MADV_UNMERGEABLE");
	region_verify(region);
	region_unmake(region);
}
