/* SPDX-License-Identifier: Apache-2.0 */
/* Shared pages are swapped to the same device, and never adopted: nobody may mistake one. */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HOLE = 16, STEPS = 64 };

static struct region *shared(struct job *job, size_t pages, int fd)
{
	void *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	need(job, at != MAP_FAILED, "mmap");
	return region_over(job, at, pages);
}

static void punch(struct region *region, int fd, uint64_t *state)
{
	size_t from = below(state, region->pages - HOLE);

	need(region->job,
	     !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(from * PAGE),
	                HOLE * PAGE),
	     "fallocate");
	memset(region->versions + from, 0, HOLE * sizeof(*region->versions));
	for (size_t i = from; i < from + HOLE; i++)
		region_check(region, i);
}

static void by_read(struct region *region, int fd, size_t i)
{
	char copy[PAGE];

	need(region->job, pread(fd, copy, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE, "pread");
	region_is(region, i, copy, "read of the file");
}

/* A child sees the same pages, by its own page table. */
static void by_child(struct region *region)
{
	pid_t pid = make_child(region->job);

	if (!pid) {
		region_verify(region);
		_exit(0);
	}
	end_child(region->job, pid);
}

void scenario_shmem(struct job *job)
{
	size_t half = job->pages / 2;
	int fd = memfd_create("torture", MFD_CLOEXEC);
	struct region *region, *private = region_make(job, half);
	uint64_t state = job->seed;

	need(job, half > HOLE && fd >= 0 && !ftruncate(fd, (off_t)(half * PAGE)), "memfd");
	region = shared(job, half, fd);
	region_fill(region);
	region_fill(private);
	while (time_left(job)) {
		region_page_out(region);
		region_page_out(private);
		for (int i = 0; i < STEPS; i++) {
			region_step(region, &state);
			region_step(private, &state);
			by_read(region, fd, below(&state, half));
		}
		punch(region, fd, &state);
		by_child(region);
	}
	region_verify(region);
	region_verify(private);
	region_unmake(region);
	region_unmake(private);
	close(fd);
}
