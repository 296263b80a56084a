/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <unistd.h>

/* Children of one process, and generations. A process may write all of its copy. */
enum { CHILDREN = 2, DEPTH = 2, COPIES = 7, STEPS = 200 };

struct tree {
	struct region *region;
	atomic_uint *lineages;
};

static void grow(struct tree *tree, int depth, uint64_t state);

static void child(struct tree *tree, int depth, uint64_t state)
{
	struct region *region = tree->region;

	region_new_lineage(region, atomic_fetch_add(tree->lineages, 1) + 1);
	region_verify(region);
	grow(tree, depth, state);
	region_verify(region);
	_exit(0);
}

/* Forks, writes while the children read what was there, and waits for them. */
static void grow(struct tree *tree, int depth, uint64_t state)
{
	struct region *region = tree->region;
	pid_t pids[CHILDREN];
	int made = 0;

	for (; depth && made < CHILDREN; made++) {
		uint64_t own = chance(&state) | 1;

		pids[made] = make_child(region->job);
		if (!pids[made])
			child(tree, depth - 1, own);
	}
	for (int i = 0; i < STEPS; i++)
		region_step(region, &state);
	while (made)
		end_child(region->job, pids[--made]);
}

void scenario_fork(struct job *job)
{
	size_t pages = job->pages / COPIES + 1;
	struct tree tree = {region_make(job, pages), &job->tally->lineages};
	uint64_t state = job->seed;

	region_fill(tree.region);
	while (time_left(job)) {
		grow(&tree, DEPTH, chance(&state) | 1);
		region_verify(tree.region);
	}
	region_unmake(tree.region);
}
