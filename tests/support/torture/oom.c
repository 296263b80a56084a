/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"
#include "region.h"
#include "scenario.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of the group's limits; what survives it has the other half of the worker's memory. */
enum { PARTS = 4, EATERS = 2, STEPS = 64 };

static void eat(struct group *group)
{
	group_enter(group);
	for (;;) {
		struct region *region = region_make(group->job, group->job->pages / PARTS);

		region_fill(region);
		region_page_out(region);
	}
}

static void feast(struct group *group)
{
	long before = group_get(group, "memory.events", "oom_kill ");
	pid_t pids[EATERS];
	int status;

	for (int i = 0; i < EATERS; i++) {
		pids[i] = make_child(group->job);
		if (!pids[i])
			eat(group);
	}
	for (int i = 0; i < EATERS; i++)
		if (waitpid(pids[i], &status, 0) != pids[i] || !WIFSIGNALED(status) ||
		    WTERMSIG(status) != SIGKILL)
			bad(group->job, "an eater ended with status %#x", status);
	if (group_get(group, "memory.events", "oom_kill ") <= before)
		bad(group->job, "nothing was counted as killed");
}

void scenario_oom(struct job *job)
{
	struct region *region = region_make(job, job->pages / 2);
	struct group group = group_make(job);
	uint64_t state = job->seed;

	need(job, group_put_pages(&group, "memory.max", job->pages / PARTS), "memory.max");
	need(job, group_put_pages(&group, "memory.swap.max", job->pages / PARTS), "swap.max");
	need(job, group_put(&group, "memory.oom.group", "1"), "memory.oom.group");
	region_fill(region);
	while (time_left(job)) {
		feast(&group);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	region_verify(region);
	group_unmake(&group);
	region_unmake(region);
}
