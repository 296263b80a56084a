/* SPDX-License-Identifier: Apache-2.0 */
#include "host/iothread.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host/thread.h"

enum { PATIENCE_MS = 10 }; /* between two looks at whether somebody who waits gives up */

struct call {
	void (*fn)(void *opaque);
	void *opaque;
};

struct iothread {
	pthread_t thread;
	int epoll_fd;
	int wake_fd;
	bool stop;   /* atomic */
	bool joined; /* its owner's */
	bool wanted; /* atomic: a call in a hurry waits */

	pthread_mutex_t direct; /* of calls that are made once it has ended */

	pthread_mutex_t lock; /* of all that follows */
	pthread_cond_t changed;
	bool ended;
	struct call call; /* one at a time; fn is NULL for none */
	bool calling;     /* it has begun */
	uint64_t posted;  /* calls so far */
	uint64_t over;    /* of those, through or withdrawn */
	char name[16];
};

void eventfd_signal(int fd)
{
	uint64_t one = 1;
	ssize_t ret;

	do {
		ret = write(fd, &one, sizeof(one));
	} while (ret < 0 && errno == EINTR);
}

void eventfd_drain(int fd)
{
	uint64_t count;
	ssize_t ret;

	do {
		ret = read(fd, &count, sizeof(count));
	} while (ret < 0 && errno == EINTR);
}

static void finish_call(struct iothread *thread)
{
	thread->call.fn = NULL;
	thread->calling = false;
	thread->over = thread->posted;
	pthread_cond_broadcast(&thread->changed);
}

static void serve_call(struct iothread *thread)
{
	struct call call;

	eventfd_drain(thread->wake_fd);
	pthread_mutex_lock(&thread->lock);
	call = thread->call;
	thread->calling = call.fn != NULL;
	__atomic_store_n(&thread->wanted, false, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&thread->lock);
	if (!call.fn)
		return;
	call.fn(call.opaque);
	pthread_mutex_lock(&thread->lock);
	finish_call(thread);
	pthread_mutex_unlock(&thread->lock);
}

static bool is_stopping(const struct iothread *thread)
{
	return __atomic_load_n(&thread->stop, __ATOMIC_ACQUIRE);
}

static void *loop(void *opaque)
{
	struct iothread *thread = opaque;

	while (!is_stopping(thread)) {
		/* One event a turn: a handler may delete any other watch without leaving a stale
		 * event behind. */
		struct epoll_event event;
		int count = epoll_wait(thread->epoll_fd, &event, 1, -1);
		struct iothread_watch *watch;

		if (count <= 0)
			continue;
		watch = event.data.ptr;
		if (watch)
			watch->handler(watch, event.events);
		else
			serve_call(thread);
	}
	/* A call that is waiting now is the last one that this thread makes. */
	serve_call(thread);
	pthread_mutex_lock(&thread->lock);
	thread->ended = true;
	pthread_cond_broadcast(&thread->changed);
	pthread_mutex_unlock(&thread->lock);
	return NULL;
}

static int start(struct iothread *thread)
{
	struct epoll_event wake = {.events = EPOLLIN, .data.ptr = NULL};

	if (epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, thread->wake_fd, &wake))
		return -errno;
	return -thread_start(&thread->thread, thread->name, loop, thread);
}

static void release(struct iothread *thread)
{
	if (thread->epoll_fd >= 0)
		close(thread->epoll_fd);
	if (thread->wake_fd >= 0)
		close(thread->wake_fd);
	pthread_cond_destroy(&thread->changed);
	pthread_mutex_destroy(&thread->lock);
	pthread_mutex_destroy(&thread->direct);
	free(thread);
}

struct iothread *iothread_create(const char *name)
{
	struct iothread *thread = calloc(1, sizeof(*thread));
	pthread_mutexattr_t recursive;
	int ret = -ENOMEM;

	if (!thread)
		return NULL;
	strncpy(thread->name, name, sizeof(thread->name) - 1);
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&thread->direct, &recursive);
	pthread_mutexattr_destroy(&recursive);
	pthread_mutex_init(&thread->lock, NULL);
	pthread_cond_init(&thread->changed, NULL);
	thread->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	thread->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (thread->epoll_fd >= 0 && thread->wake_fd >= 0)
		ret = start(thread);
	else
		ret = -errno;
	if (ret) {
		release(thread);
		errno = -ret;
		return NULL;
	}
	return thread;
}

static void ask_to_stop(struct iothread *thread)
{
	__atomic_store_n(&thread->stop, true, __ATOMIC_RELEASE);
	eventfd_signal(thread->wake_fd);
}

int iothread_stop(struct iothread *thread, uint32_t milliseconds)
{
	struct timespec until = thread_deadline(milliseconds);
	int error = 0;

	if (thread->joined)
		return 0;
	ask_to_stop(thread);
	pthread_mutex_lock(&thread->lock);
	while (!thread->ended && !error)
		error = pthread_cond_clockwait(&thread->changed, &thread->lock, CLOCK_MONOTONIC,
		                               &until);
	if (thread->ended)
		error = 0;
	pthread_mutex_unlock(&thread->lock);
	if (error)
		return -error;
	/* Nothing is left for it to do but to return. */
	pthread_join(thread->thread, NULL);
	thread->joined = true;
	return 0;
}

void iothread_destroy(struct iothread *thread)
{
	if (!thread)
		return;
	if (!thread->joined) {
		ask_to_stop(thread);
		pthread_join(thread->thread, NULL);
	}
	release(thread);
}

static int control(struct iothread *thread, int operation, struct iothread_watch *watch,
                   uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	return epoll_ctl(thread->epoll_fd, operation, watch->fd, &event) ? -errno : 0;
}

int iothread_add(struct iothread *thread, struct iothread_watch *watch, uint32_t events)
{
	return control(thread, EPOLL_CTL_ADD, watch, events);
}

int iothread_mod(struct iothread *thread, struct iothread_watch *watch, uint32_t events)
{
	return control(thread, EPOLL_CTL_MOD, watch, events);
}

static void nothing(void *opaque)
{
	(void)opaque;
}

int iothread_del(struct iothread *thread, struct iothread_watch *watch)
{
	int ret = control(thread, EPOLL_CTL_DEL, watch, 0);

	/* A call runs between handlers, so once it is through the handler is not running either. */
	iothread_call(thread, nothing, NULL);
	return ret;
}

bool iothread_is_wanted(const struct iothread *thread)
{
	return __atomic_load_n(&thread->wanted, __ATOMIC_RELAXED) || is_stopping(thread);
}

/* With the lock held: whether whoever waits should go on waiting, after some time. */
static bool wait_more(struct iothread *thread, iothread_give_up *give_up, const void *who)
{
	struct timespec until = thread_deadline(PATIENCE_MS);

	if (!give_up) {
		pthread_cond_wait(&thread->changed, &thread->lock);
		return true;
	}
	if (give_up(who))
		return false;
	pthread_cond_clockwait(&thread->changed, &thread->lock, CLOCK_MONOTONIC, &until);
	return true;
}

/* With the lock held. One that has begun cannot be taken back. */
static void withdraw(struct iothread *thread)
{
	if (thread->calling)
		return;
	__atomic_store_n(&thread->wanted, false, __ATOMIC_RELAXED);
	finish_call(thread);
}

/* With the lock held. 0, -ECANCELED, or -ESRCH: the thread has ended, and nothing was done. */
static int post(struct iothread *thread, const struct call *call, iothread_give_up *give_up,
                const void *who)
{
	uint64_t ticket;

	while (thread->call.fn && !thread->ended)
		if (!wait_more(thread, give_up, who))
			return -ECANCELED;
	if (thread->ended)
		return -ESRCH;
	thread->call = *call;
	ticket = ++thread->posted;
	if (give_up)
		__atomic_store_n(&thread->wanted, true, __ATOMIC_RELAXED);
	eventfd_signal(thread->wake_fd);
	while (thread->over < ticket && !thread->ended) {
		if (!wait_more(thread, give_up, who)) {
			withdraw(thread);
			return -ECANCELED;
		}
	}
	if (thread->over >= ticket)
		return 0;
	finish_call(thread);
	return -ESRCH;
}

int iothread_call_unless(struct iothread *thread, void (*fn)(void *opaque), void *opaque,
                         iothread_give_up *give_up, const void *who)
{
	const struct call call = {fn, opaque};
	int ret;

	if (pthread_equal(pthread_self(), thread->thread)) {
		fn(opaque);
		return 0;
	}
	pthread_mutex_lock(&thread->lock);
	ret = post(thread, &call, give_up, who);
	pthread_mutex_unlock(&thread->lock);
	if (ret != -ESRCH)
		return ret;
	pthread_mutex_lock(&thread->direct);
	fn(opaque);
	pthread_mutex_unlock(&thread->direct);
	return 0;
}

void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque)
{
	iothread_call_unless(thread, fn, opaque, NULL, NULL);
}
