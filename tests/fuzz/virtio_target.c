/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every virtio device behind its registers, driven by a driver that is the input
 * (virtio_driver.c), over descriptors that bring and refuse what the input says, with writes of
 * the guest in the middle of the device's work.
 */
#include "virtio_world.h"

#include <stdlib.h>
#include <string.h>

#include "machine/vcpu.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/rng.h"

uint8_t *ram;
static uint8_t *rom, *disk;

/* The device asks where guest memory is between any two reads of it: the guest may write then. */
#define RACED(name)                                                                                \
	void *__real_##name(const struct guest_memory *memory, uint64_t gpa, uint64_t len);        \
	void *__wrap_##name(const struct guest_memory *memory, uint64_t gpa, uint64_t len);        \
	void *__wrap_##name(const struct guest_memory *memory, uint64_t gpa, uint64_t len)         \
	{                                                                                          \
		host_moment();                                                                     \
		return __real_##name(memory, gpa, len);                                            \
	}

RACED(guest_memory_at)
RACED(guest_memory_at_writable)
RACED(guest_memory_steady_at)
RACED(guest_memory_ram_at)

/* No vCPU waits here. host.h has who gives up a wait. */
bool vcpu_must_leave(const struct vcpu *vcpu)
{
	(void)vcpu;
	return false;
}

static struct virtio_device *make_console(struct world *world, const struct virtio_wiring *wiring,
                                          uint8_t how)
{
	const enum host_kind kinds[] = {HOST_SOCKET, HOST_PIPE, HOST_FILE, HOST_FILE};
	struct virtio_console_plug plug = {.escape = how & 1, .framed = how >> 1 & 1};

	world->in = host_make(kinds[how >> 2 & 3]);
	world->out = host_make(kinds[how >> 4 & 3]);
	world->gate = how & 0x40 ? host_make(HOST_EVENT) : -1;
	plug.input_fd = world->in;
	plug.output_fd = world->out;
	plug.quit_fd = how & 0x80 ? host_make(HOST_EVENT) : -1;
	plug.gate_fd = world->gate;
	plug.failed_fd = host_make(HOST_EVENT);
	return virtio_console_create(wiring, &plug);
}

static struct virtio_device *make_device(struct world *world, uint8_t how)
{
	struct virtio_wiring wiring = {world->memory, world->thread, virtio_mmio_transport(),
	                               world->irq};
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	const uint64_t sectors = DISK / VIRTIO_BLK_SECTOR;

	switch (world->kind) {
	case RNG:
		return virtio_rng_create(&wiring);
	case BLK_FILE:
		return virtio_blk_create(&wiring, host_make(HOST_DISK), sectors, how & 1, "fuzz");
	case BLK_MEMORY:
		return virtio_blk_create_memory(&wiring, disk, sectors, how & 1, "fuzz");
	case CONSOLE:
		return make_console(world, &wiring, how);
	default:
		world->tap = host_make(HOST_TAP);
		return virtio_net_create(&wiring, world->tap, mac, how & 1 ? 1500 : 0);
	}
}

static void build_memory(void)
{
	ram = aligned_alloc(4096, RAM);
	disk = aligned_alloc(4096, DISK);
	/* A write to it shows as a fault. */
	rom = mmap(NULL, ROM, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!ram || !disk || rom == MAP_FAILED)
		abort();
	memset(disk, 0, DISK);
}

static void set_up(struct world *world)
{
	uint8_t how;

	if (!ram)
		build_memory();
	host_reset();
	memset(ram, 0, RAM);
	world->memory = guest_memory_create();
	guest_memory_add(world->memory, 0, RAM, ram, 0);
	guest_memory_add(world->memory, ROM_AT, ROM, rom, GUEST_MEMORY_READONLY);
	guest_memory_add(world->memory, DISK_AT, DISK, disk, GUEST_MEMORY_APERTURE);
	world->thread = iothread_create("fuzz");
	world->irq = host_make(HOST_EVENT);
	world->gate = world->in = world->out = world->tap = -1;
	how = input_8(&world->input);
	world->kind = how % KINDS;
	world->device = make_device(world, input_8(&world->input));
	if (!world->device)
		abort();
	for (uint32_t i = 0; i < virtio_queue_count(world->device); i++)
		virtio_set_kick(world->device, i, host_make(HOST_EVENT));
	if (world->kind != CONSOLE && world->kind != NET)
		world->in = world->out = host_make(HOST_PIPE);
	if (how & 0x80)
		start_driver(world, (uint32_t)world->device->offered,
		             (uint32_t)(world->device->offered >> 32));
}

/* What must hold at any time, whatever the driver did. */
static void check(const struct world *world)
{
	const struct virtio_device *device = world->device;

	for (uint32_t i = 0; i < device->queue_count; i++) {
		const struct virtqueue *ring = &device->queues[i].ring;

		if (!virtqueue_is_live(ring))
			continue;
		/* Nothing was completed that was not taken, and nothing taken that was not offered.
		 */
		if ((uint16_t)(ring->next_avail - ring->used_idx) > ring->size ||
		    (uint16_t)(ring->avail_idx - ring->next_avail) > ring->size)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = {.input = {data, size}};

	set_up(&world);
	while (world.input.left) {
		operate(&world);
		check(&world);
	}
	virtio_destroy(world.device);
	iothread_destroy(world.thread);
	guest_memory_destroy(world.memory);
	return 0;
}
