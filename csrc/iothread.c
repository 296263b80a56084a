/* SPDX-License-Identifier: Apache-2.0 */
#include "iothread.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "thread.h"

struct call {
	void (*fn)(void *opaque);
	void *opaque;
};

struct iothread {
	pthread_t thread;
	int epoll_fd;
	int wake_fd;
	bool stop; /* set on the thread itself */
	/* One call at a time: the lock is held from posting to completion. */
	pthread_mutex_t call_lock;
	pthread_mutex_t done_lock;
	pthread_cond_t done;
	struct call *call;
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

static void serve_call(struct iothread *thread)
{
	struct call *call;

	eventfd_drain(thread->wake_fd);
	pthread_mutex_lock(&thread->done_lock);
	call = thread->call;
	pthread_mutex_unlock(&thread->done_lock);
	if (!call)
		return;
	call->fn(call->opaque);
	pthread_mutex_lock(&thread->done_lock);
	thread->call = NULL;
	pthread_cond_signal(&thread->done);
	pthread_mutex_unlock(&thread->done_lock);
}

static void *loop(void *opaque)
{
	struct iothread *thread = opaque;

	while (!thread->stop) {
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
	pthread_cond_destroy(&thread->done);
	pthread_mutex_destroy(&thread->done_lock);
	pthread_mutex_destroy(&thread->call_lock);
	free(thread);
}

struct iothread *iothread_create(const char *name)
{
	struct iothread *thread = calloc(1, sizeof(*thread));
	int ret = -ENOMEM;

	if (!thread)
		return NULL;
	strncpy(thread->name, name, sizeof(thread->name) - 1);
	pthread_mutex_init(&thread->call_lock, NULL);
	pthread_mutex_init(&thread->done_lock, NULL);
	pthread_cond_init(&thread->done, NULL);
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

static void set_stop(void *opaque)
{
	((struct iothread *)opaque)->stop = true;
}

void iothread_destroy(struct iothread *thread)
{
	if (!thread)
		return;
	iothread_call(thread, set_stop, thread);
	pthread_join(thread->thread, NULL);
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

void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque)
{
	struct call call = {fn, opaque};

	if (pthread_equal(pthread_self(), thread->thread)) {
		fn(opaque);
		return;
	}
	pthread_mutex_lock(&thread->call_lock);
	pthread_mutex_lock(&thread->done_lock);
	/* Safe: this function returns only after the thread has let go of it. */
	/* cppcheck-suppress autoVariables */
	thread->call = &call;
	eventfd_signal(thread->wake_fd);
	while (thread->call)
		pthread_cond_wait(&thread->done, &thread->done_lock);
	pthread_mutex_unlock(&thread->done_lock);
	pthread_mutex_unlock(&thread->call_lock);
}
