/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device on a transport that is not the engine's, with as many queues as one may have. It
 * says nothing where all went well.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "virtio/serve.h"

enum {
	QUEUES = VIRTIO_MAX_QUEUES,
	SIZE = 4,
	RING = 0x1000, /* bytes for the rings of a queue */
	AVAIL = 0x400,
	USED = 0x800,
	CONFIG = 64,
};

/* Where the registers would be. */
struct page {
	uint32_t status, interrupt_status, generation;
	uint8_t config[CONFIG];
	unsigned int interrupts[QUEUES]; /* atomic, as the next */
	unsigned int changes;
};

static uint8_t ram[QUEUES * RING] __attribute__((aligned(4096)));
static int freed;

static void check(bool true_so_far, const char *what)
{
	if (true_so_far)
		return;
	printf("not so: %s\n", what);
	exit(1);
}

static int lay_out(struct virtio_device *device)
{
	struct page *page = calloc(1, sizeof(*page));

	device->page = (uint8_t *)page;
	if (!page)
		return -ENOMEM;
	device->status = &page->status;
	device->interrupt_status = &page->interrupt_status;
	device->config_generation = &page->generation;
	device->config = page->config;
	return 0;
}

static void free_page(struct virtio_device *device)
{
	free(device->page);
	freed++;
}

static void interrupt(struct virtio_device *device, const struct virtio_queue *queue)
{
	struct page *page = (struct page *)device->page;

	__atomic_fetch_add(queue ? &page->interrupts[queue->index] : &page->changes, 1,
	                   __ATOMIC_SEQ_CST);
}

static const struct virtio_transport transport = {lay_out, free_page, interrupt};

static int serve(struct virtio_queue *queue, uint32_t *written)
{
	*written = 0;
	virtio_spend(queue, 1);
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
}

static const struct virtio_operations operations = {.kick = kick, .destroy = destroy};

static void refuse_other_counts(const struct virtio_wiring *wiring)
{
	static const uint32_t counts[] = {0, QUEUES + 1};

	for (int i = 0; i < 2; i++) {
		struct virtio_device device = {0};

		check(virtio_init(&device, 1, &operations, wiring, counts[i]) == -EINVAL,
		      "-EINVAL");
		virtio_release(&device);
	}
}

static void make(struct virtio_device *device, const struct virtio_wiring *wiring)
{
	check(!virtio_init(device, 1, &operations, wiring, QUEUES), "the device is made");
	device->config_size = CONFIG;
	for (uint32_t i = 0; i < QUEUES; i++) {
		check(!virtio_add_queue(device, SIZE), "there is room for the queue");
		check(!virtio_set_kick(device, i, eventfd(0, EFD_NONBLOCK)), "it has a kick");
	}
	check(virtio_add_queue(device, SIZE) == -ENOSPC, "and for no other");
}

/* As a driver does, with one chain of one descriptor in each queue. */
static void start(struct virtio_device *device)
{
	uint32_t greeted = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	virtio_write_status(device, greeted, NULL);
	device->accepted = 1ULL << VIRTIO_F_VERSION_1;
	virtio_write_status(device, greeted | VIRTIO_CONFIG_S_FEATURES_OK, NULL);
	for (uint32_t i = 0; i < QUEUES; i++) {
		struct virtqueue *ring = &device->queues[i].ring;
		uint64_t at = (uint64_t)i * RING;
		struct vring_desc desc = {.addr = at + USED + 0x100, .len = 16};

		memcpy(ram + at, &desc, sizeof(desc));
		ring->size = SIZE;
		ring->desc_gpa = at;
		ring->avail_gpa = at + AVAIL;
		ring->used_gpa = at + USED;
		virtio_write_ready(device, &device->queues[i], true, NULL);
	}
	virtio_write_status(
	        device, greeted | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK, NULL);
}

static void offer(struct virtio_device *device, uint32_t queue)
{
	struct vring_avail *avail = (struct vring_avail *)(ram + (size_t)queue * RING + AVAIL);

	__atomic_store_n(&avail->idx, 1, __ATOMIC_SEQ_CST);
	eventfd_signal(device->queues[queue].kick.fd);
}

int main(void)
{
	struct guest_memory *memory = guest_memory_create();
	struct virtio_wiring wiring = {memory, iothread_create("test"), &transport, -1};
	struct virtio_device device = {0};
	const struct page *page;

	guest_memory_add(memory, 0, sizeof(ram), ram, 0);
	refuse_other_counts(&wiring);
	make(&device, &wiring);
	start(&device);
	page = (const struct page *)device.page;
	/* From the last, so that a queue taken for another would show. */
	for (uint32_t i = QUEUES; i--;) {
		offer(&device, i);
		virtio_settle(&device);
		check(page->interrupts[i] == 1, "the queue's own interrupt came");
		check(!i || !page->interrupts[i - 1], "and no other");
	}
	virtio_update_config(&device, 0, "new", 3);
	check(page->changes == 1, "the change of configuration is told");
	virtio_destroy(&device);
	check(freed == 3, "the transport frees what it laid out");
	iothread_destroy(wiring.thread);
	guest_memory_destroy(memory);
	return 0;
}
