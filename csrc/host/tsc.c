// SPDX-License-Identifier: Apache-2.0
#include "host/tsc.h"

#include <time.h>
#include <x86intrin.h>

#define TRIES 64

/* Both clocks at one moment. */
struct moment {
	uint64_t tsc;
	int64_t ns;
};

static int64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Of many readings the one that took least: it was not preempted between the two. */
static struct moment read_both(void)
{
	struct moment best = {0};
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t before = __rdtsc();
		int64_t ns = monotonic_ns();
		uint64_t took = __rdtsc() - before;

		if (took < least) {
			least = took;
			best = (struct moment){.tsc = before + took / 2, .ns = ns};
		}
	}
	return best;
}

uint32_t tsc_khz(unsigned int milliseconds)
{
	struct timespec pause = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
	struct moment first = read_both();
	struct moment last;

	nanosleep(&pause, NULL);
	last = read_both();
	return (uint32_t)((double)(last.tsc - first.tsc) * 1e6 / (double)(last.ns - first.ns) +
	                  0.5);
}
