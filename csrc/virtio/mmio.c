/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <string.h>
#include <time.h>

#include "host/thread.h"
#include "machine/vcpu.h"

enum { LOCK_PATIENCE_MS = 10 }; /* between two looks at whether a vCPU is to leave */

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

static uint32_t *reg(const struct virtio_device *device, uint32_t offset)
{
	return (uint32_t *)(device->page + offset);
}

static void set(struct virtio_device *device, uint32_t offset, uint32_t value)
{
	__atomic_store_n(reg(device, offset), value, __ATOMIC_RELAXED);
}

/* The registers that depend on what is selected. */
static void show_selected(struct virtio_device *device)
{
	const struct virtio_queue *queue = selected(device);

	set(device, VIRTIO_MMIO_DEVICE_FEATURES, half(device->offered, device->offered_select));
	set(device, VIRTIO_MMIO_QUEUE_NUM_MAX, queue ? queue->ring.size_max : 0);
	set(device, VIRTIO_MMIO_QUEUE_READY, queue && queue->ready);
}

static int lay_out(struct virtio_device *device)
{
	static const uint32_t shared_memory[] = {VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
	                                         VIRTIO_MMIO_SHM_BASE_LOW,
	                                         VIRTIO_MMIO_SHM_BASE_HIGH};

	device->page = host_map(-1, VIRTIO_MMIO_PAGE, 0, 0);
	if (!device->page)
		return -errno;
	device->status = reg(device, VIRTIO_MMIO_STATUS);
	device->interrupt_status = reg(device, VIRTIO_MMIO_INTERRUPT_STATUS);
	device->config_generation = reg(device, VIRTIO_MMIO_CONFIG_GENERATION);
	device->config = device->page + VIRTIO_MMIO_CONFIG;
	set(device, VIRTIO_MMIO_MAGIC_VALUE, 0x74726976); /* "virt" */
	set(device, VIRTIO_MMIO_VERSION, 2);
	set(device, VIRTIO_MMIO_DEVICE_ID, device->id);
	set(device, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VENDOR);
	/* There is none, whichever is selected. */
	for (size_t i = 0; i < sizeof(shared_memory) / sizeof(shared_memory[0]); i++)
		set(device, shared_memory[i], UINT32_MAX);
	return 0;
}

static void free_page(struct virtio_device *device)
{
	if (device->page)
		host_unmap(device->page, VIRTIO_MMIO_PAGE);
}

static void interrupt(struct virtio_device *device, const struct virtio_queue *queue)
{
	uint32_t reason = queue ? VIRTIO_MMIO_INT_VRING : VIRTIO_MMIO_INT_CONFIG;

	__atomic_fetch_or(device->interrupt_status, reason, __ATOMIC_SEQ_CST);
	eventfd_signal(device->irq_fd);
}

const struct virtio_transport *virtio_mmio_transport(void)
{
	static const struct virtio_transport transport = {lay_out, free_page, interrupt};

	return &transport;
}

void *virtio_mmio_page(struct virtio_device *device)
{
	pthread_mutex_lock(&device->lock);
	show_selected(device);
	pthread_mutex_unlock(&device->lock);
	return device->page;
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

static void write_register(struct virtio_device *device, uint64_t offset, uint32_t value,
                           const struct vcpu *vcpu)
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
			virtio_write_ready(device, queue, value, vcpu);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		notify(device, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		__atomic_fetch_and(device->interrupt_status, ~value, __ATOMIC_SEQ_CST);
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_write_status(device, value, vcpu);
		break;
	default:
		write_queue(queue, offset, value);
	}
}

/* A field in one go where it is aligned, as the CPU would: another thread may be writing it. */
static uint64_t read_config(const uint8_t *from, uint32_t length)
{
	uint64_t value = 0;

	if (length == 4 && (uintptr_t)from % 4 == 0)
		return __atomic_load_n((const uint32_t *)from, __ATOMIC_RELAXED);
	if (length == 2 && (uintptr_t)from % 2 == 0)
		return __atomic_load_n((const uint16_t *)from, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < length; i++)
		value |= (uint64_t)__atomic_load_n(from + i, __ATOMIC_RELAXED) << 8 * i;
	return value;
}

/* One read, as of the mapped page: registers in words, configuration space in any width. */
static uint64_t read_page(struct virtio_device *device, uint32_t offset, uint32_t length)
{
	uint64_t value = 0;

	if (offset >= VIRTIO_MMIO_CONFIG)
		value = read_config(device->page + offset, length);
	else if (length == 4 && offset % 4 == 0)
		value = __atomic_load_n(reg(device, offset), __ATOMIC_SEQ_CST);
	return value;
}

/* False where the vCPU is to leave: another one has the lock, and waits for the device's thread. */
static bool lock_for(struct virtio_device *device, const struct vcpu *vcpu)
{
	while (pthread_mutex_trylock(&device->lock)) {
		struct timespec until = thread_deadline(LOCK_PATIENCE_MS);

		if (vcpu && vcpu_must_leave(vcpu))
			return false;
		if (!thread_lock_until(&device->lock, &until))
			return true;
	}
	return true;
}

int virtio_mmio_access(void *opaque, struct bus_access *access)
{
	struct virtio_device *device = opaque;
	uint32_t offset = (uint32_t)access->offset;

	if (!access->is_write)
		access->value = 0;
	if (access->offset >= VIRTIO_MMIO_SIZE || access->length > sizeof(access->value))
		return BUS_DONE;
	if (!lock_for(device, access->vcpu))
		return BUS_DONE;
	if (access->is_write && offset >= VIRTIO_MMIO_CONFIG)
		virtio_write_config(device, offset - VIRTIO_MMIO_CONFIG, &access->value,
		                    access->length);
	else if (access->is_write && access->length == 4)
		write_register(device, offset, (uint32_t)access->value, access->vcpu);
	show_selected(device);
	if (!access->is_write)
		access->value = read_page(device, offset, access->length);
	pthread_mutex_unlock(&device->lock);
	return BUS_DONE;
}
