/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages are let go by one thread while others fault on them: a page that is about to be mapped must
 * be given up again. Who reads meanwhile finds the right words, or zeros, and nothing else.
 */
#include "region.h"
#include "scenario.h"

#include <pthread.h>
#include <sys/mman.h>

enum { READERS = 3, LONGEST = 1 << 12 };

struct drop {
	struct region *region;
	uint64_t seed;
	atomic_size_t next; /* the page that is let go in a moment */
	atomic_bool over;
};

static void look(struct region *region, size_t i)
{
	uint64_t right[PAGE / 8];
	const volatile uint64_t *words = region_page(region, i);

	stamp(right, PAGE, region_tag(region, i));
	atomic_fetch_add(&region->job->tally->checked, 1);
	for (size_t word = 0; word < PAGE / 8; word++) {
		uint64_t found = words[word];

		if (!found || found == right[word])
			continue;
		bad(region->job, "page %zu, word %zu is %016llx, neither %016llx nor zero", i, word,
		    (unsigned long long)found, (unsigned long long)right[word]);
		return;
	}
}

static void *read_all(void *opaque)
{
	struct drop *drop = opaque;
	uint64_t state = drop->seed;

	while (!drop->over)
		look(drop->region, below(&state, 8) ? atomic_load(&drop->next)
		                                    : below(&state, drop->region->pages));
	return NULL;
}

/* Swapped out, let go as soon as others read it or a little later, and the same as before. */
static void once(struct drop *drop, uint64_t *state)
{
	struct region *region = drop->region;
	size_t page = below(state, region->pages);

	region_advise(region, page, 1, MADV_PAGEOUT);
	atomic_store(&drop->next, page);
	for (volatile size_t wait = below(state, LONGEST); wait; wait--)
		;
	if (!region_advise(region, page, 1, MADV_DONTNEED))
		bad(region->job, "MADV_DONTNEED: %m");
	stamp(region_page(region, page), PAGE, region_tag(region, page));
	atomic_fetch_add(&region->job->tally->written, 1);
}

void scenario_drop(struct job *job)
{
	struct drop drop = {.region = region_make(job, job->pages), .seed = job->seed};
	uint64_t state = job->seed;
	pthread_t readers[READERS];

	region_fill(drop.region);
	for (int i = 0; i < READERS; i++)
		need(job, !pthread_create(&readers[i], NULL, read_all, &drop), "pthread_create");
	while (time_left(job))
		once(&drop, &state);
	drop.over = true;
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	region_verify(drop.region);
	region_unmake(drop.region);
}
