/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting. */
#ifndef INIT_CLOCK_H
#define INIT_CLOCK_H

#include <time.h>

#define POLL_MS 5

static inline void sleep_ms(long ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

#endif
