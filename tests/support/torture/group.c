/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"
#include "region.h"
#include "scenario.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* The kernel charges 64 pages at a time, and keeps page tables and stacks in the group too. */
enum { TURNS = 20, SLACK = 256 };

/* Stopped now and then, so that its parent can look. */
static void member(struct group *group, size_t pages)
{
	struct region *region;
	uint64_t state = group->job->seed;

	group_enter(group);
	region = region_make(group->job, pages);
	region_fill(region);
	for (int turn = 0; turn < TURNS && time_left(group->job); turn++) {
		raise(SIGSTOP);
		for (size_t i = 0; i < pages; i++)
			region_step(region, &state);
	}
	region_verify(region);
	_exit(0);
}

/* Every page of the member is charged: to memory, or to swap. */
static void account(struct group *group, size_t pages)
{
	long memory = group_get(group, "memory.current", NULL);
	long swap = group_get(group, "memory.swap.current", NULL);

	if (memory + swap < (long)(pages * PAGE))
		bad(group->job, "%zu pages, but %ld bytes of memory and %ld of swap are charged",
		    pages, memory, swap);
	if (swap > (long)((pages + SLACK) * PAGE))
		bad(group->job, "%ld bytes of swap are charged for %zu pages", swap, pages);
}

static void watch(struct group *group, size_t pages)
{
	pid_t pid = make_child(group->job);
	int status;

	if (!pid)
		member(group, pages);
	while (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)) {
		account(group, pages);
		kill(pid, SIGCONT);
	}
	if (status)
		bad(group->job, "the member ended with status %#x", status);
}

void scenario_group(struct job *job)
{
	size_t pages = job->pages - SLACK;
	struct group group = group_make(job);

	need(job, job->pages >= 4 * SLACK, "memory of this worker, at least 4 MiB");
	need(job, group_put_pages(&group, "memory.max", pages / 2 + SLACK), "memory.max");
	need(job, group_put_pages(&group, "memory.swap.max", 2 * pages), "memory.swap.max");
	while (time_left(job)) {
		watch(&group, pages);
		if (group_get(&group, "memory.events", "oom_kill ") > 0)
			bad(job, "the group ran out of memory");
	}
	group_unmake(&group);
}
