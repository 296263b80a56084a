/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "machine/vcpu.h"

static const uint32_t KNOWN_STATUS = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
                                     VIRTIO_CONFIG_S_FAILED;

int virtio_init(struct virtio_device *device, uint32_t id,
                const struct virtio_operations *operations, const struct virtio_wiring *wiring,
                uint32_t queues)
{
	device->operations = operations;
	device->transport = wiring->transport;
	device->memory = wiring->memory;
	device->thread = wiring->thread;
	device->irq_fd = wiring->irq_fd;
	device->id = id;
	pthread_mutex_init(&device->lock, NULL);
	pthread_mutex_init(&device->config_lock, NULL);
	device->offered = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC |
	                  1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (!queues || queues > VIRTIO_MAX_QUEUES)
		return -EINVAL;
	device->queues = calloc(queues, sizeof(*device->queues));
	if (!device->queues)
		return -ENOMEM;
	device->queue_room = queues;
	return device->transport->lay_out(device);
}

static void handle_kick(struct iothread_watch *watch, uint32_t events)
{
	struct virtio_queue *queue = watch->opaque;

	/* The watch is edge-triggered: the eventfd's count never needs to be read. */
	(void)events;
	virtio_count(&queue->device->stats.kicks, 1);
	queue->device->operations->kick(queue->device, queue);
}

int virtio_add_queue(struct virtio_device *device, uint32_t size_max)
{
	struct virtio_queue *queue = &device->queues[device->queue_count];

	if (size_max > VIRTQUEUE_MAX_SIZE)
		return -EINVAL;
	if (device->queue_count == device->queue_room)
		return -ENOSPC;
	queue->chain = virtqueue_chain_create(size_max);
	if (!queue->chain)
		return -ENOMEM;
	queue->device = device;
	queue->index = device->queue_count++;
	queue->ring.size_max = size_max;
	queue->kick = (struct iothread_watch){-1, handle_kick, queue};
	return 0;
}

void virtio_release(struct virtio_device *device)
{
	for (uint32_t i = 0; i < device->queue_count; i++)
		free(device->queues[i].chain);
	free(device->queues);
	device->transport->free(device);
	pthread_mutex_destroy(&device->config_lock);
	pthread_mutex_destroy(&device->lock);
}

int virtio_set_kick(struct virtio_device *device, uint32_t queue, int fd)
{
	if (queue >= device->queue_count || fd < 0)
		return -EINVAL;
	device->queues[queue].kick.fd = fd;
	return 0;
}

uint32_t virtio_queue_count(const struct virtio_device *device)
{
	return device->queue_count;
}

uint32_t virtio_device_id(const struct virtio_device *device)
{
	return device->id;
}

uint32_t virtio_status(const struct virtio_device *device)
{
	return __atomic_load_n(device->status, __ATOMIC_ACQUIRE);
}

void virtio_stats(struct virtio_device *device, struct virtio_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&device->stats;
	uint64_t *to = (uint64_t *)stats;

	for (size_t i = 0; i < sizeof(*stats) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

/* Interrupts. */

static void raise(struct virtio_device *device, const struct virtio_queue *queue)
{
	__atomic_fetch_add(&device->stats.interrupts, 1, __ATOMIC_RELAXED);
	device->transport->interrupt(device, queue);
}

void virtio_interrupt(struct virtio_queue *queue)
{
	if (virtqueue_is_live(&queue->ring) && virtqueue_wants_interrupt(&queue->ring))
		raise(queue->device, queue);
}

/* Section 2.1.2 of the specification: no notification before DRIVER_OK. */
static void raise_config(struct virtio_device *device)
{
	if (virtio_status(device) & VIRTIO_CONFIG_S_DRIVER_OK)
		raise(device, NULL);
}

bool virtio_is_broken(const struct virtio_device *device)
{
	return virtio_status(device) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void ask_for_reset(struct virtio_device *device)
{
	__atomic_fetch_or(device->status, VIRTIO_CONFIG_S_NEEDS_RESET, __ATOMIC_SEQ_CST);
	raise_config(device);
}

void virtio_violation(struct virtio_device *device, uint32_t violation)
{
	__atomic_fetch_add(&device->stats.violations[violation], 1, __ATOMIC_RELAXED);
	ask_for_reset(device);
}

/* Queues, on the I/O thread. */

static void stop_queue(struct virtio_queue *queue)
{
	struct virtio_device *device = queue->device;

	if (queue->running) {
		iothread_del(device->thread, &queue->kick);
		queue->running = queue->held = false;
		if (device->operations->stop_queue)
			device->operations->stop_queue(device, queue);
	}
	virtqueue_stop(&queue->ring);
}

static void run_queue(struct virtio_queue *queue)
{
	struct virtio_device *device = queue->device;

	if (queue->running || !virtqueue_is_live(&queue->ring))
		return;
	if (iothread_add(device->thread, &queue->kick, EPOLLIN | EPOLLET)) {
		/* The host's trouble, but the driver must not wait for ever. */
		virtio_count(&device->stats.errors, 1);
		ask_for_reset(device);
		return;
	}
	queue->running = true;
	/* Drivers may fill a queue before DRIVER_OK and not kick afterwards. */
	device->operations->kick(device, queue);
}

static void start_device(void *opaque)
{
	struct virtio_device *device = opaque;

	if (device->operations->start)
		device->operations->start(device);
	for (uint32_t i = 0; i < device->queue_count; i++)
		run_queue(&device->queues[i]);
}

static void stop_device(void *opaque)
{
	struct virtio_device *device = opaque;

	for (uint32_t i = 0; i < device->queue_count; i++)
		stop_queue(&device->queues[i]);
	if (device->operations->stop)
		device->operations->stop(device);
}

static void make_ready(void *opaque)
{
	struct virtio_queue *queue = opaque;
	struct virtio_device *device = queue->device;
	int ret = virtqueue_start(&queue->ring, device->memory, device->accepted);

	if (ret)
		virtio_violation(device, (uint32_t)-ret);
	else if (virtio_status(device) & VIRTIO_CONFIG_S_DRIVER_OK)
		run_queue(queue);
}

static void make_unready(void *opaque)
{
	stop_queue(opaque);
}

/* The transport's side. */

static bool must_leave(const void *who)
{
	return who && vcpu_must_leave(who);
}

/* Has the I/O thread do something to the device or to one of its queues. False where the vCPU is to
 * leave instead. The guest may go on all the same, if that was about a symcall, and what it asked
 * for may still come, or not: nothing but a reset helps then. */
static bool on_thread(struct virtio_device *device, void (*fn)(void *opaque), void *what,
                      const struct vcpu *vcpu)
{
	if (!iothread_call_unless(device->thread, fn, what, must_leave, vcpu))
		return true;
	ask_for_reset(device);
	return false;
}

void virtio_write_ready(struct virtio_device *device, struct virtio_queue *queue, bool ready,
                        const struct vcpu *vcpu)
{
	uint32_t status = virtio_status(device);

	if (ready == queue->ready)
		return;
	if (!ready) {
		queue->ready = !on_thread(device, make_unready, queue, vcpu);
		return;
	}
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    (status & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET)))
		return;
	/* Where the thread may still be at it, the guest must not move the rings under its hands.
	 */
	queue->ready =
	        !on_thread(device, make_ready, queue, vcpu) || virtqueue_is_live(&queue->ring);
}

static void reset_queue(struct virtio_queue *queue)
{
	struct virtqueue *ring = &queue->ring;

	queue->ready = false;
	ring->size = 0;
	ring->desc_gpa = 0;
	ring->avail_gpa = 0;
	ring->used_gpa = 0;
}

static void reset(struct virtio_device *device, const struct vcpu *vcpu)
{
	if (!on_thread(device, stop_device, device, vcpu))
		return;
	for (uint32_t i = 0; i < device->queue_count; i++)
		reset_queue(&device->queues[i]);
	device->accepted = 0;
	device->offered_select = 0;
	device->accepted_select = 0;
	device->queue_select = 0;
	__atomic_store_n(device->interrupt_status, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(device->status, 0, __ATOMIC_SEQ_CST);
	virtio_count(&device->stats.resets, 1);
}

static bool features_fit(struct virtio_device *device)
{
	uint64_t features = device->accepted;

	if ((features & ~device->offered) || !(features >> VIRTIO_F_VERSION_1 & 1))
		return false;
	return !device->operations->accepts || device->operations->accepts(device, features);
}

/* The bits of `value` that may be set now (section 3.1.1: in this order). */
static uint32_t permitted(struct virtio_device *device, uint32_t before, uint32_t value)
{
	const uint32_t greeted = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	uint32_t bits = value & KNOWN_STATUS & ~before;
	uint32_t after = before | bits;

	if ((bits & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    ((after & greeted) != greeted || !features_fit(device)))
		bits &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	/* In an earlier write, so that the driver could check FEATURES_OK. */
	if (!(before & VIRTIO_CONFIG_S_FEATURES_OK))
		bits &= ~VIRTIO_CONFIG_S_DRIVER_OK;
	return bits;
}

void virtio_write_status(struct virtio_device *device, uint32_t value, const struct vcpu *vcpu)
{
	uint32_t before, bits;

	if (!value) {
		reset(device, vcpu);
		return;
	}
	/* A driver cannot clear bits other than by a reset, and NEEDS_RESET may be set meanwhile.
	 */
	bits = permitted(device, virtio_status(device), value);
	before = __atomic_fetch_or(device->status, bits, __ATOMIC_SEQ_CST);
	if (bits & VIRTIO_CONFIG_S_FAILED)
		on_thread(device, stop_device, device, vcpu);
	else if ((bits & VIRTIO_CONFIG_S_DRIVER_OK) && !(before & VIRTIO_CONFIG_S_FAILED))
		on_thread(device, start_device, device, vcpu);
}

/* Configuration space. */

static bool inside_config(const struct virtio_device *device, uint32_t offset, uint32_t length)
{
	return length <= device->config_size && offset <= device->config_size - length;
}

void virtio_write_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                         uint32_t length)
{
	if (device->operations->write_config && inside_config(device, offset, length))
		device->operations->write_config(device, offset, bytes, length);
}

/* The driver reads meanwhile, through its own mapping too: each field in one go. */
static void store(uint8_t *to, const uint8_t *from, uint32_t length)
{
	while (length) {
		uint32_t step = length >= 4 && (uintptr_t)to % 4 == 0   ? 4
		                : length >= 2 && (uintptr_t)to % 2 == 0 ? 2
		                                                        : 1;
		uint32_t value = 0;

		memcpy(&value, from, step);
		if (step == 4)
			__atomic_store_n((uint32_t *)to, value, __ATOMIC_RELAXED);
		else if (step == 2)
			__atomic_store_n((uint16_t *)to, (uint16_t)value, __ATOMIC_RELAXED);
		else
			__atomic_store_n(to, (uint8_t)value, __ATOMIC_RELAXED);
		to += step;
		from += step;
		length -= step;
	}
}

void virtio_store_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                         uint32_t length)
{
	if (!inside_config(device, offset, length))
		return;
	pthread_mutex_lock(&device->config_lock);
	store(device->config + offset, bytes, length);
	__atomic_fetch_add(device->config_generation, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&device->config_lock);
}

void virtio_update_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                          uint32_t length)
{
	virtio_store_config(device, offset, bytes, length);
	raise_config(device);
}

static void nothing(void *opaque)
{
	(void)opaque;
}

void virtio_settle(struct virtio_device *device)
{
	/* epoll reports in the order of arrival, except that an event which stayed on its list
	 * keeps its place. After one call, the next goes to the end. */
	iothread_call(device->thread, nothing, NULL);
	iothread_call(device->thread, nothing, NULL);
}

void virtio_destroy(struct virtio_device *device)
{
	if (!device)
		return;
	iothread_call(device->thread, stop_device, device);
	device->operations->destroy(device);
}
