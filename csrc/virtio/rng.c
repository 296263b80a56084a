/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "host/guard.h"
#include "virtio/serve.h"

enum {
	QUEUE_SIZE = 64,
	/* Bytes given for one request; the rest of a larger buffer stays as it is, which the
	 * specification allows. Keeps a guest from holding the thread with gigabytes. */
	REQUEST_LIMIT = 64 << 10,
	PIECE = 1024,
};

static int serve(struct virtio_queue *queue, uint32_t *written)
{
	struct virtio_stats *stats = &queue->device->stats;
	struct iovec_list *to = &queue->chain->writable;
	size_t left = to->bytes < REQUEST_LIMIT ? to->bytes : REQUEST_LIMIT;

	while (left) {
		uint8_t bytes[PIECE];
		size_t room = left < to->iov->iov_len ? left : to->iov->iov_len;
		size_t piece = room < PIECE ? room : PIECE;
		/* Entropy that could block is of no use here. Not straight into guest memory: the
		 * function of glibc 2.41 writes there itself, and memory that is gone would end the
		 * process. */
		ssize_t got = piece ? getrandom(bytes, piece, GRND_NONBLOCK) : 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || !guard_copy(to->iov->iov_base, bytes, (size_t)got)) {
			virtio_count(&stats->errors, 1);
			break;
		}
		left -= iovec_skip(to, (size_t)got);
		*written += (uint32_t)got;
	}
	virtio_count(&stats->bytes_to_guest, *written);
	virtio_spend(queue, *written);
	return 0;
}

static void kick(struct virtio_device *device, struct virtio_queue *queue)
{
	(void)device;
	virtio_serve(queue, serve);
}

static void destroy(struct virtio_device *device)
{
	virtio_release(device);
	free(device);
}

static const struct virtio_operations operations = {.kick = kick, .destroy = destroy};

struct virtio_device *virtio_rng_create(const struct virtio_wiring *wiring)
{
	struct virtio_device *device = calloc(1, sizeof(*device));
	int ret;

	if (!device)
		return NULL;
	ret = virtio_init(device, VIRTIO_ID_RNG, &operations, wiring, 1);
	if (!ret)
		ret = virtio_add_queue(device, QUEUE_SIZE);
	if (ret) {
		destroy(device);
		errno = -ret;
		return NULL;
	}
	return device;
}
