/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <string.h>
#include <sys/mman.h>

enum { REGIONS = 16, HOLE = 8 };

/* Pages in the middle are unmapped and mapped anew: zeros, next to what stayed. */
static void hole(struct region *region, uint64_t *state)
{
	size_t from = below(state, region->pages - HOLE);
	char *at = region_page(region, from);

	need(region->job, !munmap(at, HOLE * PAGE), "munmap");
	need(region->job,
	     mmap(at, HOLE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
	          -1, 0) == at,
	     "mmap");
	memset(region->versions + from, 0, HOLE * sizeof(*region->versions));
}

static struct region *fresh(struct job *job)
{
	struct region *region = region_make(job, job->pages / REGIONS);

	region_fill(region);
	region_page_out(region);
	return region;
}

void scenario_map(struct job *job)
{
	struct region *regions[REGIONS];
	uint64_t state = job->seed;

	need(job, job->pages / REGIONS > HOLE, "memory of this worker");
	for (int i = 0; i < REGIONS; i++)
		regions[i] = fresh(job);
	while (time_left(job)) {
		struct region **one = &regions[below(&state, REGIONS)];

		for (int i = 0; i < HOLE; i++)
			region_step(*one, &state);
		hole(*one, &state);
		region_verify(*one);
		if (below(&state, 2)) {
			region_unmake(*one);
			*one = fresh(job);
		}
	}
	for (int i = 0; i < REGIONS; i++) {
		region_verify(regions[i]);
		region_unmake(regions[i]);
	}
}
