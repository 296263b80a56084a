/* SPDX-License-Identifier: Apache-2.0 */
/* The little of io_uring that is needed here: one request at a time. */
#ifndef TORTURE_RING_H
#define TORTURE_RING_H

#include "job.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

struct ring {
	int fd;
	struct io_uring_params params;
	char *queue; /* both rings, which lie in one mapping */
	struct io_uring_sqe *entries;
};

struct ring ring_make(struct job *job);
void ring_unmake(struct ring *ring);

/* Pins buffers for long; false with errno. */
bool ring_register(struct ring *ring, const struct iovec *buffers, unsigned count);
bool ring_unregister(struct ring *ring);

/* Submits a request and waits for it: its result, or -errno. */
int ring_do(struct ring *ring, const struct io_uring_sqe *request);

#endif
