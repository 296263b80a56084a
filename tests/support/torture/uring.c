/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffers that are registered stay pinned while everything else about them changes: the kernel must
 * have moved them to memory that may be pinned for long, and both sides must see the same page.
 */
#define _GNU_SOURCE
#include "region.h"
#include "ring.h"
#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PINNED = 32, TURNS = 40 };

struct uring {
	struct region *region;
	struct ring ring;
	int fd;
};

static void transfer(struct uring *uring, size_t i, int opcode, size_t buffer)
{
	struct job *job = uring->region->job;
	struct io_uring_sqe request = {
	        .opcode = (uint8_t)opcode,
	        .fd = uring->fd,
	        .off = (job->disk_from + i) * PAGE,
	        .addr = (uintptr_t)region_page(uring->region, i),
	        .len = PAGE,
	        .buf_index = (uint16_t)buffer,
	};
	int result = ring_do(&uring->ring, &request);

	if (result != (int)PAGE)
		bad(job, "io_uring request %d: %s", opcode, strerror(-result));
}

/* Written to the disk, spoiled in memory, and read back. */
static void there_and_back(struct uring *uring, size_t i, bool fixed, size_t buffer)
{
	struct region *region = uring->region;

	region_write(region, i);
	region_advise(region, i, 1, MADV_PAGEOUT);
	transfer(uring, i, fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE, buffer);
	memset(region_page(region, i), 0xee, PAGE);
	region_advise(region, i, 1, MADV_PAGEOUT);
	transfer(uring, i, fixed ? IORING_OP_READ_FIXED : IORING_OP_READ, buffer);
	region_check(region, i);
}

static void with_pinned(struct uring *uring, size_t from, uint64_t *state)
{
	struct region *region = uring->region;
	struct iovec buffers[PINNED];

	for (size_t i = 0; i < PINNED; i++)
		buffers[i] = (struct iovec){region_page(region, from + i), PAGE};
	region_advise(region, from, PINNED, MADV_PAGEOUT);
	if (!ring_register(&uring->ring, buffers, PINNED)) {
		if (errno != ENOMEM && errno != EAGAIN)
			bad(region->job, "IORING_REGISTER_BUFFERS: %m");
		return;
	}
	for (int turn = 0; turn < TURNS; turn++) {
		size_t buffer = below(state, PINNED);

		region_check(region, from + buffer);
		there_and_back(uring, from + buffer, true, buffer);
		region_step(region, state);
	}
	if (!ring_unregister(&uring->ring))
		bad(region->job, "IORING_UNREGISTER_BUFFERS: %m");
}

void scenario_uring(struct job *job)
{
	struct uring uring = {.region = region_make(job, job->pages), .ring = ring_make(job)};
	uint64_t state = job->seed;

	need(job, job->pages > PINNED, "memory of this worker");
	if (!job->disk)
		die(job, "no disk (-d) as big as the memory");
	uring.fd = open(job->disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	need(job, uring.fd >= 0, job->disk);
	region_fill(uring.region);
	while (time_left(job)) {
		with_pinned(&uring, below(&state, job->pages - PINNED), &state);
		for (int turn = 0; turn < TURNS; turn++)
			there_and_back(&uring, below(&state, job->pages), false, 0);
	}
	region_verify(uring.region);
	ring_unmake(&uring.ring);
}
