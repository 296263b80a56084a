/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { AT_ONCE = 4, STEPS = 100 };

int exec_hold(struct job *job)
{
	struct region *region = region_make(job, job->pages);

	region_fill(region);
	region_page_out(region);
	region_verify(region);
	return atomic_load(&job->tally->bad) ? 1 : 0;
}

/* Has swapped pages of its own, and copies of its parent's, when it becomes another program. */
static void become(struct region *region, size_t pages)
{
	struct job *job = region->job;
	struct region *own = region_make(job, pages);
	char count[32], number[32];

	region_fill(own);
	region_page_out(own);
	for (size_t i = 0; i < region->pages; i++)
		region_check(region, i);
	snprintf(count, sizeof(count), "%zu", pages);
	snprintf(number, sizeof(number), "%u", job->number);
	execl("/proc/self/exe", "torture", "--hold", count, number, (char *)NULL);
	die(job, "exec: %m");
}

void scenario_exec(struct job *job)
{
	size_t part = job->pages / (AT_ONCE + 4);
	struct region *region = region_make(job, part);
	uint64_t state = job->seed;
	pid_t pids[AT_ONCE];

	need(job, part, "memory of this worker");
	region_fill(region);
	while (time_left(job)) {
		region_page_out(region);
		for (int i = 0; i < AT_ONCE; i++) {
			pids[i] = make_child(job);
			if (!pids[i])
				become(region, part);
		}
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
		for (int i = 0; i < AT_ONCE; i++)
			end_child(job, pids[i]);
	}
	region_verify(region);
	region_unmake(region);
}
