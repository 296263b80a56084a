/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread answers the faults of a region: missing pages get their contents from it, and writes to
 * protected ones are noted. The protection has to outlive being swapped: each write to a protected
 * page must be told once, none to another.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_PAGES = 32 };

struct faultfd {
	struct region *region;
	int fd;
	atomic_bool over;
	atomic_uint *told; /* of each page: writes that faulted on its protection */
};

static bool ask(struct faultfd *faultfd, unsigned long request, void *argument)
{
	while (ioctl(faultfd->fd, request, argument))
		if (errno != EAGAIN && errno != EINTR)
			return false;
	return true;
}

static bool protect(struct faultfd *faultfd, size_t from, size_t count, bool on)
{
	struct uffdio_writeprotect range = {
	        .range = {(uintptr_t)region_page(faultfd->region, from), count * PAGE},
	        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ask(faultfd, UFFDIO_WRITEPROTECT, &range);
}

static void bring(struct faultfd *faultfd, size_t i)
{
	char copy[PAGE] __attribute__((aligned(PAGE)));
	struct uffdio_copy request = {
	        .dst = (uintptr_t)region_page(faultfd->region, i),
	        .src = (uintptr_t)copy,
	        .len = PAGE,
	};

	stamp(copy, PAGE, region_tag(faultfd->region, i));
	if (!ask(faultfd, UFFDIO_COPY, &request) && errno != EEXIST)
		bad(faultfd->region->job, "UFFDIO_COPY: %m");
}

static void answer(struct faultfd *faultfd, const struct uffd_msg *message)
{
	uintptr_t offset = message->arg.pagefault.address - (uintptr_t)faultfd->region->at;
	size_t i = offset / PAGE;

	if (message->event != UFFD_EVENT_PAGEFAULT || i >= faultfd->region->pages) {
		bad(faultfd->region->job, "userfaultfd event %#x", message->event);
	} else if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
		atomic_fetch_add(&faultfd->told[i], 1);
		if (!protect(faultfd, i, 1, false))
			bad(faultfd->region->job, "UFFDIO_WRITEPROTECT: %m");
	} else {
		bring(faultfd, i);
	}
}

static void *serve(void *opaque)
{
	struct faultfd *faultfd = opaque;
	struct pollfd wait = {.fd = faultfd->fd, .events = POLLIN};
	struct uffd_msg message;

	while (!faultfd->over)
		if (poll(&wait, 1, 100) > 0 &&
		    read(faultfd->fd, &message, sizeof(message)) == sizeof(message))
			answer(faultfd, &message);
	return NULL;
}

static void open_fd(struct faultfd *faultfd)
{
	struct region *region = faultfd->region;
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	struct uffdio_register range = {
	        .range = {(uintptr_t)region->at, region->pages * PAGE},
	        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	faultfd->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	need(region->job, faultfd->fd >= 0, "userfaultfd");
	need(region->job, ask(faultfd, UFFDIO_API, &api), "UFFDIO_API");
	need(region->job, ask(faultfd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
}

/* Protected, swapped out, read (which tells nothing), then written to (which does, once). */
static void protected_round(struct faultfd *faultfd, size_t from, size_t count, uint64_t *state)
{
	struct region *region = faultfd->region;

	for (size_t i = from; i < from + count; i++) {
		region_check(region, i);
		faultfd->told[i] = 0;
	}
	if (!protect(faultfd, from, count, true))
		bad(region->job, "UFFDIO_WRITEPROTECT: %m");
	region_advise(region, from, count, MADV_PAGEOUT);
	for (size_t i = from; i < from + count; i++) {
		if (below(state, 2))
			region_check(region, i);
		if (below(state, 4) == 0)
			region_advise(region, i, 1, MADV_PAGEOUT);
		if (faultfd->told[i])
			bad(region->job, "a read of page %zu was told as a write", i);
		region_write(region, i);
		if (faultfd->told[i] != 1)
			bad(region->job, "a write to page %zu was told %u times", i,
			    faultfd->told[i]);
	}
}

/* Let go; the next access brings it from the thread. */
static void missing_round(struct faultfd *faultfd, size_t from, size_t count)
{
	struct region *region = faultfd->region;

	if (!region_advise(region, from, count, MADV_DONTNEED))
		bad(region->job, "MADV_DONTNEED: %m");
	for (size_t i = from; i < from + count; i++)
		region_check(region, i);
}

void scenario_faultfd(struct job *job)
{
	struct faultfd faultfd = {.region = region_make(job, job->pages)};
	uint64_t state = job->seed;
	pthread_t thread;

	need(job, job->pages > MOST_PAGES, "memory of this worker");
	faultfd.told = calloc(job->pages, sizeof(*faultfd.told));
	need(job, faultfd.told, "calloc");
	open_fd(&faultfd);
	need(job, !pthread_create(&thread, NULL, serve, &faultfd), "pthread_create");
	region_fill(faultfd.region);
	while (time_left(job)) {
		size_t count = 1 + below(&state, MOST_PAGES);
		size_t from = below(&state, job->pages - count);

		if (below(&state, 3))
			protected_round(&faultfd, from, count, &state);
		else
			missing_round(&faultfd, from, count);
		for (int i = 0; i < MOST_PAGES; i++)
			region_step(faultfd.region, &state);
	}
	region_verify(faultfd.region);
	faultfd.over = true;
	pthread_join(thread, NULL);
	close(faultfd.fd);
}
