/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "host/thread.h"
#include "machine/vcpu.h"

enum {
	TURNS = 8,         /* within a deadline */
	IDLE_TURNS = 64,   /* without a call, before it sleeps */
	LEAST_TURN = 1000, /* nanoseconds */
};

struct look {
	struct symcall_watched *watched;
	uint64_t sequence; /* as last seen */
	uint32_t turns;    /* for which it was the same call */
};

struct symcall_watch {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool ending;
	bool asleep;
	uint64_t turn_ns;
	uint32_t room;
	uint32_t count;
	struct look looks[];
};

/* True if the vCPU called since the last look. */
static bool look_at(struct look *look)
{
	struct symcall_watched *watched = look->watched;
	uint64_t sequence = __atomic_load_n(&watched->sequence, __ATOMIC_ACQUIRE);

	if (sequence != look->sequence) {
		look->sequence = sequence;
		look->turns = 0;
		return true;
	}
	if (!(sequence & 1))
		return false;
	if (++look->turns > TURNS) {
		look->turns = 0;
		__atomic_store_n(&watched->late, sequence, __ATOMIC_RELEASE);
		vcpu_request(watched->vcpu, VCPU_REQUEST_LATE);
	}
	return true;
}

static bool look_at_all(struct symcall_watch *watch)
{
	bool busy = false;

	for (uint32_t i = 0; i < watch->count; i++)
		busy |= look_at(&watch->looks[i]);
	return busy;
}

static void wait_a_turn(struct symcall_watch *watch)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(watch->turn_ns % 1000000000);
	until.tv_sec += (time_t)(watch->turn_ns / 1000000000);
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (!watch->ending &&
	       pthread_cond_timedwait(&watch->wake, &watch->lock, &until) != ETIMEDOUT)
		;
}

static void sleep_until_called(struct symcall_watch *watch)
{
	__atomic_store_n(&watch->asleep, true, __ATOMIC_SEQ_CST);
	/* A call that began before it could see the flag shows here. */
	if (look_at_all(watch))
		__atomic_store_n(&watch->asleep, false, __ATOMIC_SEQ_CST);
	while (!watch->ending && __atomic_load_n(&watch->asleep, __ATOMIC_SEQ_CST))
		pthread_cond_wait(&watch->wake, &watch->lock);
}

static void *main_of_watch(void *opaque)
{
	struct symcall_watch *watch = opaque;
	uint32_t idle = IDLE_TURNS;

	pthread_mutex_lock(&watch->lock);
	while (!watch->ending) {
		if (idle >= IDLE_TURNS) {
			sleep_until_called(watch);
			idle = 0;
		}
		wait_a_turn(watch);
		idle = look_at_all(watch) ? 0 : idle + 1;
	}
	pthread_mutex_unlock(&watch->lock);
	return NULL;
}

struct symcall_watch *symcall_watch_create(uint32_t milliseconds, uint32_t cpus)
{
	struct symcall_watch *watch = calloc(1, sizeof(*watch) + cpus * sizeof(struct look));
	pthread_condattr_t attributes;
	int error;

	if (!watch)
		return NULL;
	watch->room = cpus;
	watch->turn_ns = (uint64_t)milliseconds * 1000000 / TURNS;
	if (watch->turn_ns < LEAST_TURN)
		watch->turn_ns = LEAST_TURN;
	pthread_mutex_init(&watch->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	error = thread_start(&watch->thread, "symcall-watch", main_of_watch, watch);
	if (!error)
		return watch;
	pthread_cond_destroy(&watch->wake);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
	errno = error;
	return NULL;
}

void symcall_watch_destroy(struct symcall_watch *watch)
{
	if (!watch)
		return;
	pthread_mutex_lock(&watch->lock);
	watch->ending = true;
	pthread_cond_signal(&watch->wake);
	pthread_mutex_unlock(&watch->lock);
	pthread_join(watch->thread, NULL);
	pthread_cond_destroy(&watch->wake);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
}

int symcall_watch_add(struct symcall_watch *watch, struct symcall_watched *watched)
{
	int error = 0;

	pthread_mutex_lock(&watch->lock);
	if (watch->count == watch->room)
		error = -ENOSPC;
	else
		watch->looks[watch->count++].watched = watched;
	pthread_mutex_unlock(&watch->lock);
	return error;
}

void symcall_watch_begin(struct symcall_watch *watch)
{
	/* Pairs with the store in sleep_until_called(): one of the two sees the other. */
	if (!__atomic_load_n(&watch->asleep, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&watch->lock);
	__atomic_store_n(&watch->asleep, false, __ATOMIC_SEQ_CST);
	pthread_cond_signal(&watch->wake);
	pthread_mutex_unlock(&watch->lock);
}
