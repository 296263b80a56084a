/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages stay in pipes, which refer to them without a mapping: nobody may move them meanwhile, or
 * reader and owner would see different pages. Some of those that are held are unmapped too.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HELD = 16, PIPES = 4, STEPS = 64, HOLD_MS = 300 };

/* Pages of the region that a pipe holds, as they were when they went in. */
struct held {
	struct region *region;
	int ends[2];
	size_t from;
};

static void take(struct held *held, size_t from)
{
	struct region *region = held->region;
	struct iovec pages = {region_page(region, from), HELD * PAGE};

	held->from = from;
	region_advise(region, from, HELD, MADV_PAGEOUT);
	need(region->job, vmsplice(held->ends[1], &pages, 1, 0) == (ssize_t)(HELD * PAGE),
	     "vmsplice");
}

static void check(struct held *held)
{
	struct region *region = held->region;
	char page[PAGE];

	for (size_t i = held->from; i < held->from + HELD; i++) {
		need(region->job, read(held->ends[0], page, PAGE) == (ssize_t)PAGE, "pipe");
		region_is(region, i, page, "held by a pipe");
	}
}

/* Half the time the owner lets go of them: the pipe has the last reference. */
static void hold(struct region *region, struct held *held, uint64_t *state)
{
	size_t share = region->pages / PIPES;

	for (size_t i = 0; i < PIPES; i++)
		take(&held[i], i * share + below(state, share - HELD));
	for (size_t i = 0; i < PIPES; i++)
		if (below(state, 2))
			madvise(region_page(region, held[i].from), HELD * PAGE, MADV_DONTNEED);
	pause_ms((long)below(state, HOLD_MS));
	for (size_t i = 0; i < PIPES; i++)
		check(&held[i]);
	/* What was let go reads as zeros: it is all written anew. */
	for (size_t i = 0; i < PIPES; i++)
		for (size_t page = held[i].from; page < held[i].from + HELD; page++)
			region_write(region, page);
}

void scenario_pipe(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	struct held held[PIPES];
	uint64_t state = job->seed;

	need(job, job->pages > PIPES * HELD * 2, "memory of this worker");
	for (int i = 0; i < PIPES; i++) {
		held[i] = (struct held){.region = region};
		need(job, !pipe2(held[i].ends, O_CLOEXEC), "pipe");
		need(job, fcntl(held[i].ends[1], F_SETPIPE_SZ, HELD * PAGE) > 0, "F_SETPIPE_SZ");
	}
	region_fill(region);
	while (time_left(job)) {
		hold(region, held, &state);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	region_verify(region);
	region_unmake(region);
}
