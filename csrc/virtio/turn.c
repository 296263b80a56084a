/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "virtio/device.h"

enum {
	/* A device on a slow host has the time to itself, another one the bytes. */
	CHAINS = 256,
	BYTES = 8 << 20,
	NANOSECONDS = 20 * 1000 * 1000,
	LOOK = 64, /* the cost of looking for a chain, in bytes */
};

static int64_t now_ns(void)
{
	struct timespec now;

	/* The coarse clock, to some milliseconds, is a read of memory. */
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void virtio_begin_turn(struct virtio_queue *queue)
{
	queue->turn = (struct virtio_turn){.until = now_ns() + NANOSECONDS};
}

void virtio_spend(struct virtio_queue *queue, uint64_t bytes)
{
	queue->turn.bytes += bytes;
}

bool virtio_turn_is_over(const struct virtio_queue *queue)
{
	const struct virtio_turn *turn = &queue->turn;

	return turn->bytes >= BYTES || turn->chains >= CHAINS ||
	       iothread_is_wanted(queue->device->thread) || now_ns() >= turn->until;
}

void virtio_ask_turn(struct virtio_queue *queue)
{
	if (queue->running)
		eventfd_signal(queue->kick.fd);
}

bool virtio_look_again(struct virtio_queue *queue)
{
	/* A driver that moves its index to and fro may make it look for ever. */
	virtio_spend(queue, LOOK);
	return !virtio_is_broken(queue->device) && virtqueue_resume_kicks(&queue->ring);
}
