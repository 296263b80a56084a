/* SPDX-License-Identifier: Apache-2.0 */
/* Pages go into a pipe without a copy, are swapped out meanwhile, and read at the other end. */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGES = 8 };

static void read_all(struct job *job, int fd, char *to)
{
	for (size_t got = 0; got < PAGES * PAGE;) {
		ssize_t now = read(fd, to + got, PAGES * PAGE - got);

		need(job, now > 0, "read of the pipe");
		got += (size_t)now;
	}
}

static void through(struct region *region, const int *ends, size_t from)
{
	struct iovec pages = {region_page(region, from), PAGES * PAGE};
	char copy[PAGES * PAGE];

	region_advise(region, from, PAGES, MADV_PAGEOUT);
	need(region->job, vmsplice(ends[1], &pages, 1, 0) == (ssize_t)(PAGES * PAGE), "vmsplice");
	region_advise(region, from, PAGES, MADV_PAGEOUT);
	read_all(region->job, ends[0], copy);
	for (size_t i = 0; i < PAGES; i++)
		region_is(region, from + i, copy + i * PAGE, "out of the pipe");
}

void scenario_splice(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;
	int ends[2];

	need(job, job->pages > PAGES, "memory of this worker");
	need(job, !pipe2(ends, O_CLOEXEC), "pipe");
	region_fill(region);
	while (time_left(job)) {
		through(region, ends, below(&state, job->pages - PAGES));
		for (int i = 0; i < PAGES; i++)
			region_step(region, &state);
	}
	region_verify(region);
	region_unmake(region);
}
