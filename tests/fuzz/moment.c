/* SPDX-License-Identifier: Apache-2.0 */
/* What the input says of the next calls, and of the moments in between: how each ends, what else
 * happens. */
#include "host_parts.h"

#include <string.h>

#include "host/guard.h"

enum {
	OUTCOMES = 64,
	RACES = 8,
	RACE_BYTES = 16,
};

struct race {
	uint32_t moment;
	uint8_t *where;
	size_t length;
	uint8_t bytes[RACE_BYTES];
};

static uint8_t outcomes[OUTCOMES];
static size_t outcome_next, outcome_count;
static struct race races[RACES];
static uint32_t race_count;
static uint8_t losses; /* copies until memory is gone for one; 0 for none */

void forget_moments(void)
{
	outcome_next = outcome_count = 0;
	race_count = 0;
	losses = 0;
}

void host_outcomes(const uint8_t *bytes, size_t count)
{
	outcome_next = 0;
	outcome_count = count < OUTCOMES ? count : OUTCOMES;
	memcpy(outcomes, bytes, outcome_count);
}

void host_race(uint32_t moment, uint8_t *where, const uint8_t *bytes, size_t length)
{
	struct race *race = &races[race_count % RACES];

	*race = (struct race){.moment = moment, .where = where};
	race->length = length < RACE_BYTES ? length : RACE_BYTES;
	memcpy(race->bytes, bytes, race->length);
	race_count++;
}

void host_moment(void)
{
	for (uint32_t i = 0; i < RACES && i < race_count; i++) {
		struct race *race = &races[i];

		if (race->length && !race->moment--) {
			memcpy(race->where, race->bytes, race->length);
			race->length = 0;
		}
	}
}

void host_lose(uint8_t moment)
{
	losses = moment;
}

/* host/guard.h: the copy itself is one that the sanitizers look at. */
bool guard_copy(void *to, const void *from, size_t bytes)
{
	host_moment();
	if (bytes && losses && !--losses) {
		memmove(to, from, bytes / 2);
		return false;
	}
	if (bytes)
		memmove(to, from, bytes);
	return true;
}

bool guard_clear(void *to, size_t bytes)
{
	host_moment();
	if (losses && !--losses)
		return false;
	memset(to, 0, bytes);
	return true;
}

/* The next outcome: 0 is success, an errno an error, and -n at most n bytes. */
int next_outcome(void)
{
	static const int errors[] = {EAGAIN, EIO, ENOSPC, EBADFD, EINTR, EOPNOTSUPP, EPIPE, EINVAL};
	uint8_t byte;

	host_moment();
	if (outcome_next == outcome_count)
		return 0;
	byte = outcomes[outcome_next++];
	if (byte < 8)
		return byte ? errors[byte] : 0;
	return byte & 1 ? -(byte >> 1) : 0;
}

/* The bytes of a call that may be cut short, or -1 and errno. */
ssize_t allowed(size_t bytes)
{
	int outcome = next_outcome();

	if (outcome > 0) {
		errno = outcome;
		return -1;
	}
	if (outcome < 0 && bytes > (size_t)-outcome)
		return -outcome;
	return (ssize_t)bytes;
}

/* For a call that moves no bytes. */
int refuse(void)
{
	int outcome = next_outcome();

	if (outcome <= 0)
		return 0;
	errno = outcome;
	return -1;
}
