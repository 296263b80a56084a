/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The swap device goes away under everybody, or refuses to: both are right, and lose nothing. A
 * child makes the call, since the kernel prefers it as a victim when memory runs out.
 */
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

/* Above any other device, as it was before. */
enum { STEPS = 200, PRIORITY = 10 };

static bool swap_on(const char *device)
{
	return get("/proc/swaps", device) >= 0;
}

static void take_away(struct job *job)
{
	if (!swapoff(job->swap))
		_exit(0);
	if (errno != ENOMEM && errno != EBUSY && errno != EINTR && errno != EINVAL)
		bad(job, "swapoff: %m");
	_exit(1);
}

static void give_back(struct job *job)
{
	if (!swap_on(job->swap) && swapon(job->swap, SWAP_FLAG_PREFER | PRIORITY) && errno != EBUSY)
		bad(job, "swapon: %m");
}

void scenario_swapoff(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;
	int status, done = 0, refused = 0;

	if (!job->swap)
		die(job, "no swap device (-s)");
	region_fill(region);
	while (time_left(job)) {
		pid_t pid = make_child(job);

		if (!pid)
			take_away(job);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
		waitpid(pid, &status, 0);
		if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
			bad(job, "swapoff ended with status %#x", status);
		*(status ? &refused : &done) += 1;
		give_back(job);
		region_page_out(region);
	}
	region_verify(region);
	region_unmake(region);
	printf("swapoff: %d times off, %d times refused\n", done, refused);
}
