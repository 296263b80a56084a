/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

enum { STEPS = 256 };

void scenario_random(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;

	region_fill(region);
	while (time_left(job))
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	region_verify(region);
	region_unmake(region);
}
