/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/serve.h"

#include <linux/virtio_ring.h>
#include <time.h>

enum {
	/* A device on a slow host has the time to itself, another one the bytes. */
	CHAINS = 256,
	BYTES = 8 << 20,
	NANOSECONDS = 20 * 1000 * 1000,
	LOOK = 64, /* the cost of looking for a chain, in bytes */

	/* Chains completed between two interrupts: the guest works on these while the device works
	 * on the next. */
	INTERRUPT_BATCH = 32,
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

bool virtio_pop(struct virtio_queue *queue)
{
	const struct virtqueue_chain *chain = queue->chain;
	int ret;

	if (!virtqueue_is_live(&queue->ring) || virtio_is_broken(queue->device))
		return false;
	ret = virtqueue_pop(&queue->ring, queue->chain);
	if (ret < 0)
		virtio_violation(queue->device, (uint32_t)-ret);
	else if (ret > 0)
		virtio_spend(queue, sizeof(struct vring_desc) *
		                            (chain->readable.count + chain->writable.count));
	return ret > 0;
}

void virtio_push(struct virtio_queue *queue, uint32_t written)
{
	queue->held = false;
	queue->turn.chains++;
	virtqueue_push(&queue->ring, queue->chain->head, written);
	virtio_count(&queue->device->stats.requests, 1);
}

/* Serves until the queue is empty or broken, or the turn over. */
static void serve_available(struct virtio_queue *queue, virtio_serve_fn *serve)
{
	while (!virtio_turn_is_over(queue) && (queue->held || virtio_pop(queue))) {
		uint32_t written = 0;
		int ret = serve(queue, &written);

		queue->held = ret == VIRTIO_SERVE_MORE;
		if (ret < 0)
			virtio_violation(queue->device, (uint32_t)-ret);
		if (ret)
			return;
		virtio_push(queue, written);
		if (queue->turn.chains % INTERRUPT_BATCH == 0)
			virtio_interrupt(queue);
	}
}

void virtio_serve(struct virtio_queue *queue, virtio_serve_fn *serve)
{
	bool more;

	if (!virtqueue_is_live(&queue->ring) || virtio_is_broken(queue->device))
		return;
	virtio_begin_turn(queue);
	do {
		virtqueue_suppress_kicks(&queue->ring);
		serve_available(queue, serve);
		more = queue->held || virtio_turn_is_over(queue) || virtio_look_again(queue);
	} while (more && !virtio_turn_is_over(queue));
	virtio_interrupt(queue);
	/* Come back after the other handlers had their turn. */
	if (more)
		virtio_ask_turn(queue);
}
