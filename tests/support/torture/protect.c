/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"
#include "scenario.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { MOST_PAGES = 32 };

static sigjmp_buf before;

static void faulted(int signal)
{
	(void)signal;
	siglongjmp(before, 1);
}

/* Whether the access ends in a fault, as it has to. */
static bool faults(volatile char *byte, bool write)
{
	if (sigsetjmp(before, 1))
		return true;
	if (write)
		*byte = 1;
	else
		(void)*byte;
	return false;
}

static void protect(struct region *region, size_t from, size_t count, int protection)
{
	need(region->job, !mprotect(region_page(region, from), count * PAGE, protection),
	     "mprotect");
}

static void once(struct region *region, uint64_t *state)
{
	size_t count = 1 + below(state, MOST_PAGES), from = below(state, region->pages - count);
	int protection = below(state, 2) ? PROT_READ : PROT_NONE;
	volatile char *byte = region_page(region, from + below(state, count));

	protect(region, from, count, protection);
	region_advise(region, from, count, MADV_PAGEOUT);
	if (protection == PROT_READ && below(state, 2))
		region_check(region, from + below(state, count));
	if (!faults(byte, true))
		bad(region->job, "a write to %p did not fault", (const volatile void *)byte);
	if (protection == PROT_NONE && !faults(byte, false))
		bad(region->job, "a read of %p did not fault", (const volatile void *)byte);
	if (below(state, 2))
		region_advise(region, from, count, MADV_PAGEOUT);
	protect(region, from, count, PROT_READ | PROT_WRITE);
	for (int i = 0; i < MOST_PAGES; i++)
		region_step(region, state);
	region_check(region, from);
}

void scenario_protect(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	struct sigaction action = {.sa_handler = faulted};
	uint64_t state = job->seed;

	need(job, region->pages > MOST_PAGES, "memory of this worker");
	sigaction(SIGSEGV, &action, NULL);
	region_fill(region);
	while (time_left(job))
		once(region, &state);
	region_verify(region);
	region_unmake(region);
}
