/* SPDX-License-Identifier: Apache-2.0 */
/* The disk holds what half of the pages hold; the other half are where it is read to. */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST_PAGES = 16 };

struct direct {
	struct region *region; /* pages from `half` on are targets */
	size_t half;
	int fd;
};

static off_t place(struct direct *direct, size_t i)
{
	return (off_t)((direct->region->job->disk_from + i) * PAGE);
}

static void vectors(struct direct *direct, struct iovec *list, size_t from, size_t count)
{
	for (size_t i = 0; i < count; i++)
		list[i] = (struct iovec){region_page(direct->region, from + i), PAGE};
}

static void save(struct direct *direct, size_t from, size_t count)
{
	struct iovec list[MOST_PAGES];

	region_advise(direct->region, from, count, MADV_PAGEOUT);
	vectors(direct, list, from, count);
	if (pwritev(direct->fd, list, (int)count, place(direct, from)) != (ssize_t)(count * PAGE))
		bad(direct->region->job, "pwritev: %m");
}

/* Into other pages, which are swapped out, and out of which they are read. */
static void load(struct direct *direct, size_t from, size_t count)
{
	struct iovec list[MOST_PAGES];
	size_t to = direct->half + from;

	region_advise(direct->region, to, count, MADV_PAGEOUT);
	vectors(direct, list, to, count);
	if (preadv(direct->fd, list, (int)count, place(direct, from)) != (ssize_t)(count * PAGE))
		bad(direct->region->job, "preadv: %m");
	for (size_t i = 0; i < count; i++)
		region_is(direct->region, from + i, list[i].iov_base, "O_DIRECT read");
	region_advise(direct->region, to, count, MADV_PAGEOUT);
	for (size_t i = 0; i < count; i++)
		region_is(direct->region, from + i, list[i].iov_base, "O_DIRECT read, swapped");
}

static void once(struct direct *direct, uint64_t *state)
{
	size_t count = 1 + below(state, MOST_PAGES), from = below(state, direct->half - count);

	for (size_t i = from; i < from + count; i++)
		region_check(direct->region, i);
	for (size_t i = from; i < from + count; i++)
		region_write(direct->region, i);
	save(direct, from, count);
	load(direct, from, count);
}

void scenario_direct(struct job *job)
{
	struct direct direct = {.region = region_make(job, job->pages), .half = job->pages / 2};
	uint64_t state = job->seed;

	need(job, direct.half > MOST_PAGES, "memory of this worker");
	if (!job->disk)
		die(job, "no disk (-d) as big as the memory");
	direct.fd = open(job->disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	need(job, direct.fd >= 0, job->disk);
	for (size_t i = 0; i < direct.half; i++)
		region_write(direct.region, i);
	while (time_left(job))
		once(&direct, &state);
	for (size_t i = 0; i < direct.half; i++)
		region_check(direct.region, i);
	close(direct.fd);
}
