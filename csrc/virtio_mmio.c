/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio_mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <string.h>

static struct virtio_queue *selected(struct virtio_device *device)
{
	uint32_t index = device->queue_select;

	return index < device->queue_count ? &device->queues[index] : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
	return select < 2 ? (uint32_t)(value >> 32 * select) : 0;
}

static uint64_t with_half(uint64_t value, uint32_t select, uint32_t part)
{
	uint64_t mask = 0xffffffffULL << 32 * select;

	return (value & ~mask) | (uint64_t)part << 32 * select;
}

static uint32_t generation(struct virtio_device *device)
{
	uint32_t value;

	pthread_mutex_lock(&device->config_lock);
	value = device->config_generation;
	pthread_mutex_unlock(&device->config_lock);
	return value;
}

static uint32_t read_register(struct virtio_device *device, uint64_t offset)
{
	const struct virtio_queue *queue = selected(device);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return 0x74726976; /* "virt" */
	case VIRTIO_MMIO_VERSION:
		return 2;
	case VIRTIO_MMIO_DEVICE_ID:
		return device->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VIRTIO_MMIO_VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return half(device->offered, device->offered_select);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return queue ? queue->ring.size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return queue && queue->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return __atomic_load_n(&device->interrupt_status, __ATOMIC_SEQ_CST);
	case VIRTIO_MMIO_STATUS:
		return virtio_status(device);
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return generation(device);
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* there is no shared memory region, whichever is selected */
	default:
		return 0;
	}
}

static void write_features(struct virtio_device *device, uint32_t value)
{
	if (device->accepted_select > 1 || (virtio_status(device) & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	device->accepted = with_half(device->accepted, device->accepted_select, value);
}

/* Where a queue is, and how large; fixed while it is ready. */
static void write_queue(struct virtio_queue *queue, uint64_t offset, uint32_t value)
{
	struct virtqueue *ring;

	if (!queue || queue->ready)
		return;
	ring = &queue->ring;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		ring->size = value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		ring->desc_gpa = with_half(ring->desc_gpa, offset >> 2 & 1, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		ring->avail_gpa = with_half(ring->avail_gpa, offset >> 2 & 1, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		ring->used_gpa = with_half(ring->used_gpa, offset >> 2 & 1, value);
		break;
	}
}

static void notify(struct virtio_device *device, uint32_t queue)
{
	if (queue < device->queue_count && device->queues[queue].kick.fd >= 0)
		eventfd_signal(device->queues[queue].kick.fd);
}

static void write_register(struct virtio_device *device, uint64_t offset, uint32_t value)
{
	struct virtio_queue *queue = selected(device);

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		device->offered_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		device->accepted_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_features(device, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		device->queue_select = value;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (queue && value < 2)
			virtio_write_ready(device, queue, value);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		notify(device, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		__atomic_fetch_and(&device->interrupt_status, ~value, __ATOMIC_SEQ_CST);
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_write_status(device, value);
		break;
	default:
		write_queue(queue, offset, value);
	}
}

static void access_config(struct virtio_device *device, struct bus_access *access)
{
	uint32_t offset = (uint32_t)access->offset - VIRTIO_MMIO_CONFIG;

	if (access->is_write)
		virtio_write_config(device, offset, &access->value, access->length);
	else
		virtio_read_config(device, offset, &access->value, access->length);
}

int virtio_mmio_access(void *opaque, struct bus_access *access)
{
	struct virtio_device *device = opaque;

	if (!access->is_write)
		access->value = 0;
	if (access->offset >= VIRTIO_MMIO_SIZE || access->length > sizeof(access->value))
		return BUS_DONE;
	pthread_mutex_lock(&device->lock);
	if (access->offset >= VIRTIO_MMIO_CONFIG)
		access_config(device, access);
	else if (access->length == 4 && access->is_write)
		write_register(device, access->offset, (uint32_t)access->value);
	else if (access->length == 4)
		access->value = read_register(device, access->offset);
	pthread_mutex_unlock(&device->lock);
	return BUS_DONE;
}
