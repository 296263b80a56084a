/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MADV_COLLAPSE over ranges of which some pages are swapped, or used where they were swapped to:
 * anonymous memory, and private pages in the mapping of a file that is in huge pages.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { HUGE_PAGES = 512, STEPS = 64, MOST_OUT = 32 };

/* `pages` of address space, aligned to huge pages, that shows the file or, without one, memory. */
static void *aligned(struct job *job, size_t pages, int flags, int fd)
{
	size_t bytes = pages * PAGE, huge = HUGE_PAGES * PAGE;
	char *at = mmap(NULL, bytes + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(job, at != MAP_FAILED, "mmap");
	at += huge - (uintptr_t)at % huge;
	at = mmap(at, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	need(job, at != MAP_FAILED, "mmap");
	return at;
}

/* A file of zeros, in huge pages if there is memory for that, and private pages over it. */
static struct region *over_file(struct job *job, size_t pages)
{
	int fd = memfd_create("collapse", MFD_CLOEXEC);
	char *shared;

	need(job, fd >= 0 && !ftruncate(fd, (off_t)(pages * PAGE)), "memfd_create");
	shared = aligned(job, pages, MAP_SHARED, fd);
	memset(shared, 0, pages * PAGE);
	madvise(shared, pages * PAGE, MADV_COLLAPSE);
	munmap(shared, pages * PAGE);
	return region_over(job, aligned(job, pages, MAP_PRIVATE, fd), pages);
}

static void collapse(struct region *region, uint64_t *state)
{
	size_t from = below(state, region->pages / HUGE_PAGES) * HUGE_PAGES;
	size_t count = 1 + below(state, MOST_OUT);
	size_t out = from + below(state, HUGE_PAGES - count);

	for (size_t i = out; i < out + count; i++)
		region_write(region, i);
	region_advise(region, out, count, MADV_PAGEOUT);
	for (size_t i = out; i < out + count; i++)
		if (below(state, 4))
			region_check(region, i);
	if (!region_advise(region, from, HUGE_PAGES, MADV_COLLAPSE) && errno == EFAULT)
		bad(region->job, "MADV_COLLAPSE: %m");
	for (size_t i = out; i < out + count; i++)
		region_check(region, i);
}

void scenario_collapse(struct job *job)
{
	size_t pages = job->pages / 3 / HUGE_PAGES * HUGE_PAGES;
	struct region *of_file, *of_memory;
	uint64_t state = job->seed;

	need(job, pages >= HUGE_PAGES, "memory of this worker, at least 6 MiB");
	of_memory = region_over(job, aligned(job, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1), pages);
	/* Its pages are told from the other's by their names. */
	of_file = over_file(job, pages);
	for (size_t i = 0; i < pages; i++)
		of_file->names[i] += (uint32_t)pages;
	region_fill(of_memory);
	while (time_left(job)) {
		struct region *region = below(&state, 2) ? of_memory : of_file;

		collapse(region, &state);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	region_verify(of_memory);
	region_verify(of_file);
}
