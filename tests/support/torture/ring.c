/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 8 };

static size_t queue_bytes(const struct io_uring_params *params)
{
	size_t submit = params->sq_off.array + params->sq_entries * sizeof(unsigned);
	size_t complete = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);

	return submit > complete ? submit : complete;
}

struct ring ring_make(struct job *job)
{
	struct ring ring = {0};

	ring.fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &ring.params);
	need(job, ring.fd >= 0, "io_uring_setup");
	ring.queue = mmap(NULL, queue_bytes(&ring.params), PROT_READ | PROT_WRITE, MAP_SHARED,
	                  ring.fd, IORING_OFF_SQ_RING);
	ring.entries = mmap(NULL, ring.params.sq_entries * sizeof(struct io_uring_sqe),
	                    PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	need(job, ring.queue != MAP_FAILED && (void *)ring.entries != MAP_FAILED, "mmap of ring");
	return ring;
}

void ring_unmake(struct ring *ring)
{
	munmap(ring->queue, queue_bytes(&ring->params));
	munmap(ring->entries, ring->params.sq_entries * sizeof(struct io_uring_sqe));
	close(ring->fd);
}

bool ring_register(struct ring *ring, const struct iovec *buffers, unsigned count)
{
	return !syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, buffers, count);
}

bool ring_unregister(struct ring *ring)
{
	return !syscall(SYS_io_uring_register, ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
}

static unsigned *word(struct ring *ring, unsigned offset)
{
	return (unsigned *)(void *)(ring->queue + offset);
}

static void submit(struct ring *ring, const struct io_uring_sqe *request)
{
	unsigned *tail = word(ring, ring->params.sq_off.tail);
	unsigned slot = *tail & *word(ring, ring->params.sq_off.ring_mask);

	ring->entries[slot] = *request;
	word(ring, ring->params.sq_off.array)[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

int ring_do(struct ring *ring, const struct io_uring_sqe *request)
{
	unsigned *head = word(ring, ring->params.cq_off.head);
	struct io_uring_cqe *done;
	int result;

	submit(ring, request);
	while (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		if (errno != EINTR)
			return -errno;
	done = (struct io_uring_cqe *)(void *)(ring->queue + ring->params.cq_off.cqes);
	result = done[*head & *word(ring, ring->params.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}
