/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AT_ONCE = 4, LONGEST_MS = 300 };

/* Ends by itself, with everything swapped or half of it in use again. */
static void leaver(struct job *job, uint64_t state)
{
	struct region *region = region_make(job, job->pages / AT_ONCE);

	region_fill(region);
	region_page_out(region);
	if (below(&state, 2))
		for (size_t i = 0; i < region->pages; i += 2)
			region_check(region, i);
	_exit(0);
}

/* Is killed while it works. */
static void victim(struct job *job, uint64_t state)
{
	struct region *region = region_make(job, job->pages / AT_ONCE);

	region_fill(region);
	region_page_out(region);
	for (;;)
		region_step(region, &state);
}

void scenario_exit(struct job *job)
{
	uint64_t state = job->seed;
	pid_t pids[AT_ONCE];
	int status;

	need(job, job->pages >= AT_ONCE, "memory of this worker");
	while (time_left(job)) {
		for (int i = 0; i < AT_ONCE; i++) {
			uint64_t own = chance(&state) | 1;

			pids[i] = make_child(job);
			if (!pids[i])
				(i % 2 ? victim : leaver)(job, own);
		}
		pause_ms((long)below(&state, LONGEST_MS));
		for (int i = 1; i < AT_ONCE; i += 2) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], &status, 0);
		}
		for (int i = 0; i < AT_ONCE; i += 2)
			end_child(job, pids[i]);
	}
}
