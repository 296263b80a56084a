/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UFFDIO_MOVE: pages go from one place of the address space to another, swapped ones with their
 * entries, while another thread faults on them. A kernel before 6.8 has none, which is said; the
 * pages are then moved by mremap().
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#define MOVE_ALLOW_SRC_HOLES (1 << 1)

enum { MOST_PAGES = 32 };

/* Pages are in `region`, and their places in `room` empty, but while they move. */
struct mover {
	struct region *region;
	char *room;
	int fd; /* -1: this kernel cannot */
	atomic_bool over;
	atomic_size_t watched; /* a page that the other thread may touch */
};

/* userfaultfd over what pages move to; -1 if it does not know how. */
static int open_fd(struct job *job, void *room, size_t bytes)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MOVE};
	struct uffdio_register range = {
	        .range = {(uintptr_t)room, bytes},
	        .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	need(job, fd >= 0, "userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api)) {
		need(job, errno == EINVAL, "UFFDIO_API");
		close(fd);
		return -1;
	}
	need(job, !ioctl(fd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	return fd;
}

/* Reads a page that does not move now: it may be on its way in from swap when it does. */
static void *watch(void *opaque)
{
	struct mover *mover = opaque;

	while (!mover->over) {
		volatile char *byte = region_page(mover->region, mover->watched);

		(void)*byte;
		sched_yield();
	}
	return NULL;
}

/* Moves all of it, some pages at a time if the kernel says EAGAIN. False if it does not want to. */
static bool ask(struct mover *mover, char *to, char *from, size_t bytes)
{
	size_t done = 0;

	while (done < bytes) {
		struct uffdio_move request = {
		        .dst = (uintptr_t)to + done,
		        .src = (uintptr_t)from + done,
		        .len = bytes - done,
		        .mode = MOVE_ALLOW_SRC_HOLES,
		};

		if (!ioctl(mover->fd, UFFDIO_MOVE, &request))
			return true;
		if (request.move > 0)
			done += (size_t)request.move;
		else if (errno != EAGAIN)
			break;
	}
	if (done < bytes && errno != EBUSY && errno != ENOENT && errno != EEXIST)
		bad(mover->region->job, "UFFDIO_MOVE: %m");
	return done == bytes;
}

/* There by UFFDIO_MOVE, looked at there, and back by mremap(), whose pages may be of any kind. */
static void round_trip(struct mover *mover, size_t from, size_t count, uint64_t *state)
{
	struct region *region = mover->region;
	char *room = mover->room + from * PAGE, *home = region_page(region, from);
	size_t moved = 0;

	region_advise(region, from, count, MADV_PAGEOUT);
	for (size_t i = from; i < from + count; i++)
		if (below(state, 2))
			region_check(region, i);
	/* Page by page, since one that somebody else refers to may stay. */
	for (size_t i = 0; i < count; i++) {
		if (!ask(mover, room + i * PAGE, home + i * PAGE, PAGE))
			continue;
		region_is(region, from + i, room + i * PAGE, "moved");
		moved++;
		if (below(state, 2))
			madvise(room + i * PAGE, PAGE, MADV_PAGEOUT);
		memcpy(home + i * PAGE, room + i * PAGE, PAGE);
		madvise(room + i * PAGE, PAGE, MADV_DONTNEED);
	}
	atomic_fetch_add(&region->job->tally->written, moved);
	for (size_t i = from; i < from + count; i++)
		region_check(region, i);
}

static void without(struct region *region, size_t from, size_t count)
{
	char *home = region_page(region, from), *away;

	region_advise(region, from, count, MADV_PAGEOUT);
	away = mmap(NULL, count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(region->job, away != MAP_FAILED, "mmap");
	need(region->job,
	     mremap(home, count * PAGE, count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away,
	     "mremap");
	need(region->job,
	     mremap(away, count * PAGE, count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, home) == home,
	     "mremap");
	for (size_t i = from; i < from + count; i++)
		region_check(region, i);
}

void scenario_move(struct job *job)
{
	size_t pages = job->pages / 2;
	struct mover mover = {.region = region_make(job, pages)};
	uint64_t state = job->seed;
	pthread_t thread;

	need(job, pages > 2 * MOST_PAGES, "memory of this worker");
	mover.room = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                  -1, 0);
	need(job, mover.room != MAP_FAILED, "mmap");
	mover.fd = open_fd(job, mover.room, pages * PAGE);
	if (mover.fd < 0)
		printf("move %u: this kernel has no UFFDIO_MOVE\n", job->number);
	fflush(stdout);
	region_fill(mover.region);
	need(job, !pthread_create(&thread, NULL, watch, &mover), "pthread_create");
	while (time_left(job)) {
		size_t count = 1 + below(&state, MOST_PAGES);
		size_t from = MOST_PAGES + below(&state, pages - count - MOST_PAGES);

		mover.watched = below(&state, MOST_PAGES);
		if (mover.fd < 0)
			without(mover.region, from, count);
		else
			round_trip(&mover, from, count, &state);
		for (int i = 0; i < MOST_PAGES; i++)
			region_step(mover.region, &state);
		region_advise(mover.region, 0, MOST_PAGES, MADV_PAGEOUT);
	}
	mover.over = true;
	pthread_join(thread, NULL);
	region_verify(mover.region);
}
