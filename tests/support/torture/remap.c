/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { CHUNK = 16 };

static void move(struct region *region, char *from, char *to, int flags)
{
	void *at =
	        mremap(from, CHUNK * PAGE, CHUNK * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to);

	need(region->job, at == to, "mremap");
}

/* The pages of one chunk trade places with those of another; their tags go along. */
static void exchange(struct region *region, char *spare, size_t a, size_t b)
{
	move(region, region_page(region, a), spare, 0);
	move(region, region_page(region, b), region_page(region, a), 0);
	move(region, spare, region_page(region, b), 0);
	for (size_t i = 0; i < CHUNK; i++) {
		uint32_t version = region->versions[a + i], name = region->names[a + i];

		region->versions[a + i] = region->versions[b + i];
		region->names[a + i] = region->names[b + i];
		region->versions[b + i] = version;
		region->names[b + i] = name;
	}
}

/* Moved away, with zeros left behind; and back. */
static void away(struct region *region, char *spare, size_t a)
{
	move(region, region_page(region, a), spare, MREMAP_DONTUNMAP);
	for (size_t i = a; i < a + CHUNK; i++)
		if (!holds(region_page(region, i), PAGE, (struct tag){0}))
			bad(region->job, "page %zu is not zero after it was moved away", i);
	for (size_t i = 0; i < CHUNK; i++)
		region_is(region, a + i, spare + i * PAGE, "moved away");
	move(region, spare, region_page(region, a), 0);
}

/* The upper half is given up, and comes back empty. */
static void shrink(struct region *region, size_t a)
{
	char *at = region_page(region, a);
	size_t half = CHUNK / 2 * PAGE;

	need(region->job, mremap(at, CHUNK * PAGE, half, 0) == at, "mremap to less");
	need(region->job, mremap(at, half, CHUNK * PAGE, 0) == at, "mremap to more");
	memset(region->versions + a + CHUNK / 2, 0, CHUNK / 2 * sizeof(*region->versions));
}

static void once(struct region *region, char *spare, uint64_t *state)
{
	size_t a = below(state, region->pages / CHUNK) * CHUNK;
	size_t b = below(state, region->pages / CHUNK) * CHUNK;

	if (below(state, 2))
		region_advise(region, a, CHUNK, MADV_PAGEOUT);
	switch (below(state, 4)) {
	case 0:
		away(region, spare, a);
		break;
	case 1:
		shrink(region, a);
		break;
	default:
		if (a != b)
			exchange(region, spare, a, b);
	}
	for (int i = 0; i < CHUNK; i++)
		region_step(region, state);
	region_check(region, a + below(state, CHUNK));
}

void scenario_remap(struct job *job)
{
	struct region *region = region_make(job, job->pages / CHUNK * CHUNK);
	char *spare = mmap(NULL, CHUNK * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t state = job->seed;

	need(job, region->pages, "memory of this worker");
	need(job, spare != MAP_FAILED, "mmap");
	region_fill(region);
	while (time_left(job))
		once(region, spare, &state);
	region_verify(region);
	region_unmake(region);
}
