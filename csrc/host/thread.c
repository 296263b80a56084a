/* SPDX-License-Identifier: Apache-2.0 */
#include "host/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	/* The usual 8 MiB have, one time in four, a huge page's worth at their top: 2 MiB for the
	 * few KiB that are used. */
	STACK_SIZE = 256 << 10,
	NAME_SIZE = 16,
	IN_USE = 64 << 10, /* below the caller's frame: what signal handlers and we ourselves may
	                      touch */
};

void thread_use_small_pages(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t unused = ((uintptr_t)__builtin_frame_address(0) - IN_USE) & ~(page - 1);
	pthread_attr_t attr;
	size_t size = 0;
	void *bottom = NULL;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &bottom, &size)) {
		/* Neither matters where it is refused: a kernel without huge pages, a locked stack.
		 */
		madvise(bottom, size, MADV_NOHUGEPAGE);
		if (unused > (uintptr_t)bottom)
			madvise(bottom, unused - (uintptr_t)bottom, MADV_DONTNEED);
	}
	pthread_attr_destroy(&attr);
}

int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *opaque)
{
	char shown[NAME_SIZE] = "";
	pthread_attr_t attr;
	sigset_t all, before;
	int error = pthread_attr_init(&attr);

	if (error)
		return error;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, &attr, main, opaque);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (!error) {
		strncpy(shown, name, NAME_SIZE - 1);
		pthread_setname_np(*thread, shown);
	}
	return error;
}

struct timespec thread_deadline(uint32_t milliseconds)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += milliseconds / 1000;
	until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}

int thread_lock_until(pthread_mutex_t *mutex, const struct timespec *until)
{
#ifdef __SANITIZE_THREAD__
	/* That of gcc 12 does not know the function below, and takes what it locked for free. */
	const struct timespec nap = {.tv_nsec = 100000};
	struct timespec now;
	int ret;

	while ((ret = pthread_mutex_trylock(mutex)) == EBUSY) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec > until->tv_sec ||
		    (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec))
			return ETIMEDOUT;
		nanosleep(&nap, NULL);
	}
	return ret;
#else
	return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, until);
#endif
}
