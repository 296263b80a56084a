/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "region.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LINEAGE_SHIFT = 20, COUNT_MASK = (1 << LINEAGE_SHIFT) - 1 };

static void *anonymous(struct job *job, size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(job, at != MAP_FAILED, "mmap");
	/* EINVAL: a kernel without huge pages. */
	need(job, !madvise(at, bytes, MADV_NOHUGEPAGE) || errno == EINVAL, "MADV_NOHUGEPAGE");
	return at;
}

struct region *region_over(struct job *job, void *at, size_t pages)
{
	struct region *region = calloc(1, sizeof(*region));

	need(job, region, "calloc");
	*region = (struct region){.job = job, .at = at, .pages = pages};
	region->versions = anonymous(job, pages * sizeof(*region->versions));
	region->names = anonymous(job, pages * sizeof(*region->names));
	for (size_t i = 0; i < pages; i++)
		region->names[i] = (uint32_t)i;
	return region;
}

void region_forget(struct region *region)
{
	munmap(region->versions, region->pages * sizeof(*region->versions));
	munmap(region->names, region->pages * sizeof(*region->names));
	free(region);
}

struct region *region_make(struct job *job, size_t pages)
{
	return region_over(job, anonymous(job, pages * PAGE), pages);
}

void region_unmake(struct region *region)
{
	need(region->job, !munmap(region->at, region->pages * PAGE), "munmap");
	region_forget(region);
}

void *region_page(const struct region *region, size_t i)
{
	return region->at + i * PAGE;
}

struct tag region_tag(const struct region *region, size_t i)
{
	return (struct tag){region->job->number + 1, region->versions[i], region->names[i]};
}

void region_write(struct region *region, size_t i)
{
	uint32_t count = (region->versions[i] + 1) & COUNT_MASK;

	region->versions[i] = region->lineage << LINEAGE_SHIFT | (count ? count : 1);
	stamp(region_page(region, i), PAGE, region_tag(region, i));
	atomic_fetch_add(&region->job->tally->written, 1);
}

bool region_is(struct region *region, size_t i, const void *bytes, const char *how)
{
	struct tag tag = region_tag(region, i);
	char text[320];

	atomic_fetch_add(&region->job->tally->checked, 1);
	if (holds(bytes, PAGE, tag))
		return true;
	explain(text, sizeof(text), bytes, PAGE, tag);
	bad(region->job, "%s, page %zu at %p, %s", how, i, region_page(region, i), text);
	return false;
}

bool region_check(struct region *region, size_t i)
{
	return region_is(region, i, region_page(region, i), "read");
}

void region_fill(struct region *region)
{
	for (size_t i = 0; i < region->pages; i++)
		region_write(region, i);
}

void region_verify(struct region *region)
{
	for (size_t i = 0; i < region->pages; i++)
		region_check(region, i);
}

void region_step(struct region *region, uint64_t *state)
{
	size_t i = below(state, region->pages);

	region_check(region, i);
	if (below(state, 2))
		region_write(region, i);
}

void region_new_lineage(struct region *region, uint32_t lineage)
{
	region->lineage = lineage & (UINT32_MAX >> LINEAGE_SHIFT);
}

bool region_advise(struct region *region, size_t from, size_t count, int advice)
{
	return !madvise(region_page(region, from), count * PAGE, advice);
}

void region_page_out(struct region *region)
{
	need(region->job, region_advise(region, 0, region->pages, MADV_PAGEOUT), "MADV_PAGEOUT");
}
