/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host/iothread.h without a thread: a call runs at once, and iothread_turn() serves the watches. It
 * says with an abort when they never come to rest, which would be a thread that spins.
 */
#include "host/iothread.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "host.h"

enum {
	WATCHES = 16,
	/* More than any input can bring about. */
	TURNS_LIMIT = 20000,
};

struct entry {
	struct iothread_watch *watch;
	uint32_t events;
	uint64_t seen; /* the edges that an edge-triggered one was told of */
};

struct iothread {
	struct entry entries[WATCHES];
	uint32_t next;    /* whose turn it is */
	uint32_t hurry;   /* questions until somebody is in a hurry; 0 for nobody */
	uint32_t give_up; /* 0 nobody; else host_give_up() */
	/* A call whose caller did not wait for it. */
	void (*fn)(void *opaque);
	void *opaque;
};

static struct iothread only;

void host_hurry(uint8_t moment)
{
	only.hurry = moment;
}

void host_give_up(uint8_t how)
{
	only.give_up = 2u + (how & 1);
}

struct iothread *iothread_create(const char *name)
{
	(void)name;
	only = (struct iothread){0};
	return &only;
}

static bool make_call(struct iothread *thread)
{
	void (*fn)(void *) = thread->fn;

	thread->fn = NULL;
	if (fn)
		fn(thread->opaque);
	return fn;
}

/* The call that is waiting then is the last one. */
int iothread_stop(struct iothread *thread, uint32_t milliseconds)
{
	(void)milliseconds;
	make_call(thread);
	return 0;
}

void iothread_destroy(struct iothread *thread)
{
	if (thread)
		make_call(thread);
}

static struct entry *entry_of(struct iothread *thread, const struct iothread_watch *watch)
{
	for (int i = 0; i < WATCHES; i++)
		if (thread->entries[i].watch == watch)
			return &thread->entries[i];
	return NULL;
}

int iothread_add(struct iothread *thread, struct iothread_watch *watch, uint32_t events)
{
	struct entry *entry = entry_of(thread, NULL);

	if (watch->fd < 0)
		return -EBADF;
	if (entry_of(thread, watch) || !entry)
		return -EEXIST;
	*entry = (struct entry){watch, events, 0};
	return 0;
}

int iothread_mod(struct iothread *thread, struct iothread_watch *watch, uint32_t events)
{
	struct entry *entry = entry_of(thread, watch);

	if (!entry)
		return -ENOENT;
	*entry = (struct entry){watch, events, 0};
	return 0;
}

int iothread_del(struct iothread *thread, struct iothread_watch *watch)
{
	struct entry *entry = entry_of(thread, watch);

	if (!entry)
		return -ENOENT;
	*entry = (struct entry){0};
	return 0;
}

void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque)
{
	make_call(thread);
	fn(opaque);
}

int iothread_call_unless(struct iothread *thread, void (*fn)(void *opaque), void *opaque,
                         iothread_give_up *give_up, const void *who)
{
	uint32_t how = thread->give_up;

	(void)who;
	if (!give_up || !how) {
		iothread_call(thread, fn, opaque);
		return 0;
	}
	thread->give_up = 0;
	make_call(thread);
	if (how & 1) {
		thread->fn = fn;
		thread->opaque = opaque;
	}
	return -ECANCELED;
}

bool iothread_is_wanted(const struct iothread *thread)
{
	(void)thread;
	return only.hurry && !--only.hurry;
}

static bool serve(struct entry *entry)
{
	const uint32_t always = EPOLLERR | EPOLLHUP;
	struct iothread_watch *watch = entry->watch;
	uint64_t edges;
	uint32_t up;

	if (!watch)
		return false;
	edges = host_edges(watch->fd);
	up = host_ready(watch->fd) & (entry->events | always);
	if (!up || ((entry->events & EPOLLET) && entry->seen == edges + 1))
		return false;
	entry->seen = edges + 1;
	if (entry->events & EPOLLONESHOT) {
		if (!(entry->events & ~(EPOLLONESHOT | EPOLLET)))
			return false;
		entry->events = EPOLLONESHOT;
	}
	watch->handler(watch, up);
	return true;
}

static bool one_turn(struct iothread *thread)
{
	if (make_call(thread))
		return true;
	for (int i = 0; i < WATCHES; i++)
		if (serve(&thread->entries[thread->next++ % WATCHES]))
			return true;
	return false;
}

void iothread_turn(struct iothread *thread)
{
	for (int turns = 0; one_turn(thread); turns++)
		if (turns == TURNS_LIMIT)
			abort();
}

int host_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
	bool served;

	(void)cond;
	(void)until;
	pthread_mutex_unlock(lock);
	served = one_turn(&only);
	pthread_mutex_lock(lock);
	return served ? 0 : ETIMEDOUT;
}
