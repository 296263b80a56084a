/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two faults on one page at once: should each be given a page of its own, what one thread wrote
 * would be lost. Every thread owns a part of each page, and all take the same way through them.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { THREADS = 4, PART = PAGE / THREADS, BATCH = 32 };

struct race {
	struct job *job;
	char *at;
	pthread_barrier_t barrier;
	atomic_bool over;
};

struct racer {
	struct race *race;
	unsigned number;
	uint32_t *versions;
};

static void *part_of(const struct racer *racer, size_t page)
{
	return racer->race->at + page * PAGE + racer->number * PART;
}

static struct tag tag_of(const struct racer *racer, size_t page)
{
	return (struct tag){racer->race->job->number + 1, racer->versions[page],
	                    page * THREADS + racer->number};
}

static void check(struct racer *racer, size_t page)
{
	struct job *job = racer->race->job;
	char text[320];

	atomic_fetch_add(&job->tally->checked, 1);
	if (holds(part_of(racer, page), PART, tag_of(racer, page)))
		return;
	explain(text, sizeof(text), part_of(racer, page), PART, tag_of(racer, page));
	bad(job, "thread %u, page %zu, %s", racer->number, page, text);
}

static void write_part(struct racer *racer, size_t page)
{
	racer->versions[page]++;
	stamp(part_of(racer, page), PART, tag_of(racer, page));
	atomic_fetch_add(&racer->race->job->tally->written, 1);
}

static void *run(void *opaque)
{
	struct racer *racer = opaque;
	struct race *race = racer->race;
	uint64_t way = race->job->seed, own = way + racer->number + 1;

	while (!race->over) {
		pthread_barrier_wait(&race->barrier);
		for (int i = 0; i < BATCH; i++) {
			size_t page = below(&way, race->job->pages);

			if (below(&own, 2))
				check(racer, page);
			write_part(racer, page);
		}
		pthread_barrier_wait(&race->barrier);
		if (!racer->number && !time_left(race->job))
			race->over = true;
		pthread_barrier_wait(&race->barrier);
	}
	for (size_t page = 0; page < race->job->pages; page++)
		check(racer, page);
	return NULL;
}

void scenario_race(struct job *job)
{
	struct race race = {.job = job};
	struct racer racers[THREADS];
	pthread_t threads[THREADS];

	race.at = mmap(NULL, job->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	               -1, 0);
	need(job, race.at != MAP_FAILED, "mmap");
	madvise(race.at, job->pages * PAGE, MADV_NOHUGEPAGE);
	pthread_barrier_init(&race.barrier, NULL, THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		racers[i] = (struct racer){&race, i, calloc(job->pages, sizeof(uint32_t))};
		need(job, racers[i].versions, "calloc");
		need(job, !pthread_create(&threads[i], NULL, run, &racers[i]), "pthread_create");
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}
