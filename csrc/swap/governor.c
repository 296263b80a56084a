/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/governor.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "host/thread.h"
#include "swap/bypass.h"
#include "swap/store.h"

enum { ALL = 10000 }; /* hundredths of a percent */

struct swapgovernor {
	struct swapbypass *bypass;
	struct swapstore *store;
	char *pressure;
	char *meminfo;
	char *group;
	uint32_t milliseconds;

	pthread_t thread;
	pthread_mutex_t lock; /* of all that follows */
	pthread_cond_t wake;  /* the thread */
	pthread_cond_t looked;
	bool ending;
	uint32_t policy;
	uint64_t quota;
	int verdict;
	uint64_t looks; /* that found too little */
	struct hostmemory host;
};

/* Judging. */

static bool is_scarce(uint64_t left, uint64_t total, uint32_t limit)
{
	return total && left / limit < total / ALL;
}

static int judge_host(const struct hostmemory *host, int before)
{
	int64_t stall = before ? SWAPGOVERNOR_STALL : SWAPGOVERNOR_STALL_OVER;
	uint32_t scarce = before ? SWAPGOVERNOR_SCARCE : SWAPGOVERNOR_SCARCE_OVER;

	return host->stall < stall && !is_scarce(host->available, host->total, scarce) &&
	       !is_scarce(host->room, host->limit, scarce);
}

int swapgovernor_judge(uint32_t policy, uint64_t quota, uint64_t bytes,
                       const struct hostmemory *host, int before)
{
	switch (policy) {
	case SWAP_POLICY_ALWAYS:
		return 1;
	case SWAP_POLICY_PRESSURE:
		return judge_host(host, before);
	case SWAP_POLICY_QUOTA:
		return bytes <= quota;
	default:
		return 0;
	}
}

/* True if the answer changes by itself. */
static bool must_look(const struct swapgovernor *governor)
{
	return governor->policy == SWAP_POLICY_PRESSURE || governor->policy == SWAP_POLICY_QUOTA;
}

static void apply(struct swapgovernor *governor)
{
	bool pressure = governor->policy == SWAP_POLICY_PRESSURE;

	swapbypass_allow(governor->bypass, governor->verdict || pressure);
	swapstore_grow_by_small_pages(governor->store, pressure && !governor->verdict);
}

/* `anew` is for a policy that has just been set. */
static void look(struct swapgovernor *governor, bool anew)
{
	/* Counted for the policy that needs it only. */
	uint64_t bytes =
	        governor->policy == SWAP_POLICY_QUOTA ? swapstore_follow(governor->store, anew) : 0;

	hostmemory_read(&governor->host, governor->pressure, governor->meminfo, governor->group);
	governor->verdict = swapgovernor_judge(governor->policy, governor->quota, bytes,
	                                       &governor->host, governor->verdict);
	apply(governor);
	if (!governor->verdict && must_look(governor))
		governor->looks++;
	pthread_cond_broadcast(&governor->looked);
}

/* The thread. */

static void *main_of_governor(void *opaque)
{
	struct swapgovernor *governor = opaque;

	pthread_mutex_lock(&governor->lock);
	while (!governor->ending) {
		struct timespec until = thread_deadline(governor->milliseconds);

		if (!must_look(governor))
			pthread_cond_wait(&governor->wake, &governor->lock);
		else if (pthread_cond_timedwait(&governor->wake, &governor->lock, &until) ==
		         ETIMEDOUT)
			look(governor, false);
	}
	pthread_mutex_unlock(&governor->lock);
	return NULL;
}

static void release(struct swapgovernor *governor)
{
	free(governor->pressure);
	free(governor->meminfo);
	free(governor->group);
	free(governor);
}

struct swapgovernor *swapgovernor_create(struct swapbypass *bypass, struct swapstore *store,
                                         const char *pressure, const char *meminfo,
                                         const char *group, uint32_t milliseconds)
{
	struct swapgovernor *governor = calloc(1, sizeof(*governor));
	pthread_condattr_t attributes;
	int error = ENOMEM;

	if (!governor)
		return NULL;
	governor->bypass = bypass;
	governor->store = store;
	governor->milliseconds = milliseconds;
	governor->verdict = 1;
	governor->pressure = strdup(pressure);
	governor->meminfo = strdup(meminfo);
	governor->group = strdup(group);
	pthread_mutex_init(&governor->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&governor->wake, &attributes);
	pthread_cond_init(&governor->looked, &attributes);
	pthread_condattr_destroy(&attributes);
	if (governor->pressure && governor->meminfo && governor->group)
		error = thread_start(&governor->thread, "swap-governor", main_of_governor,
		                     governor);
	if (!error)
		return governor;
	release(governor);
	errno = error;
	return NULL;
}

void swapgovernor_end(struct swapgovernor *governor)
{
	pthread_mutex_lock(&governor->lock);
	governor->ending = true;
	pthread_cond_broadcast(&governor->wake);
	pthread_cond_broadcast(&governor->looked);
	pthread_mutex_unlock(&governor->lock);
}

void swapgovernor_destroy(struct swapgovernor *governor)
{
	if (!governor)
		return;
	swapgovernor_end(governor);
	pthread_join(governor->thread, NULL);
	pthread_cond_destroy(&governor->looked);
	pthread_cond_destroy(&governor->wake);
	pthread_mutex_destroy(&governor->lock);
	release(governor);
}

/* For others. */

void swapgovernor_set(struct swapgovernor *governor, uint32_t policy, uint64_t quota)
{
	pthread_mutex_lock(&governor->lock);
	governor->policy = policy;
	governor->quota = quota;
	governor->verdict = 1;
	look(governor, true);
	pthread_cond_signal(&governor->wake);
	pthread_mutex_unlock(&governor->lock);
}

int swapgovernor_wait(struct swapgovernor *governor, uint32_t milliseconds)
{
	struct timespec until = thread_deadline(milliseconds);
	uint64_t seen;
	int result, timed = 0;

	pthread_mutex_lock(&governor->lock);
	seen = governor->looks;
	while (!governor->ending && governor->looks == seen && timed != ETIMEDOUT)
		timed = pthread_cond_timedwait(&governor->looked, &governor->lock, &until);
	result = governor->ending ? -1 : governor->looks != seen;
	pthread_mutex_unlock(&governor->lock);
	return result;
}

int swapgovernor_verdict(struct swapgovernor *governor, struct hostmemory *host)
{
	int verdict;

	pthread_mutex_lock(&governor->lock);
	verdict = governor->verdict;
	*host = governor->host;
	pthread_mutex_unlock(&governor->lock);
	return verdict;
}
