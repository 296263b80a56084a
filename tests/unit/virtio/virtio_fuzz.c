/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio devices against a driver that is noise, built with sanitizers by test_virtio_fuzz.py.
 *
 * Guest memory lies between inaccessible pages, so that every access beyond it faults. While the
 * device works, another thread keeps changing rings, descriptors and buffers under it: what was
 * checked must be what is used.
 *
 *   virtio_fuzz SEED ROUNDS    exits 0, or is killed by a sanitizer
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/vcpu.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"

enum {
	QUEUES = 4, /* no device here has more */
	RAM = 1 << 20,
	GUARD = 1 << 20,
	ROM_AT = 0x40000000,
	ROM_SIZE = 4096,
	DISK_AT = 0x50000000,
	SIZE = 16,
	RINGS = 0x1000, /* a page of rings per queue */
	TABLES = 0x10000,
	SECTORS = 128,
	KICKS = 6,
};

struct world {
	uint64_t random;
	uint8_t *ram, *rom;
	struct guest_memory *memory;
	struct iothread *thread;
	struct virtio_device *device;
	uint8_t *disk; /* which the guest has as memory as well */
	int irq_fd, disk_fd, sockets[2];
	int kicks[QUEUES];
	int scribbling;  /* atomic */
	uint32_t sanity; /* one choice in so many is bad */
};

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint32_t below(struct world *world, uint32_t limit)
{
	return (uint32_t)(next(&world->random) % limit);
}

static void *must(void *pointer, const char *what)
{
	if (!pointer || pointer == MAP_FAILED) {
		perror(what);
		exit(2);
	}
	return pointer;
}

static uint8_t *guarded(size_t size, int protection)
{
	uint8_t *all =
	        must(mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		     "mmap");

	if (mprotect(all + GUARD, size, protection))
		must(NULL, "mprotect");
	return all + GUARD;
}

static uint64_t access_register(struct world *world, uint32_t offset, uint32_t length,
                                uint64_t value, bool is_write)
{
	struct bus_access access = {offset, offset, value, length, is_write};

	virtio_mmio_access(world->device, &access);
	return access.value;
}

static void write32(struct world *world, uint32_t offset, uint32_t value)
{
	access_register(world, offset, 4, value, true);
}

static bool bad(struct world *world)
{
	return !below(world, world->sanity);
}

/* An address: mostly in memory, sometimes at an edge, sometimes anywhere. */
static uint64_t some_address(struct world *world)
{
	static const uint64_t edges[] = {0,          RAM - 16, RAM - 1,        RAM,
	                                 ROM_AT,     RINGS,    TABLES,         0xd0000000,
	                                 1ULL << 31, ~0ULL,    ~0ULL - 0xffff, 1ULL << 63};

	/* Requests of a disk over memory may name the disk itself. */
	if (!below(world, 16))
		return DISK_AT + 16 * below(world, SECTORS * VIRTIO_BLK_SECTOR / 16);
	if (!bad(world))
		return 0x20000 + 16 * below(world, (RAM - 0x30000) / 16);
	if (below(world, 4))
		return edges[below(world, sizeof(edges) / sizeof(edges[0]))];
	return next(&world->random);
}

static uint32_t some_length(struct world *world)
{
	if (bad(world))
		return (uint32_t)next(&world->random);
	return 512 * below(world, 9);
}

static void write_descriptor(struct world *world, uint8_t *where, uint32_t index)
{
	/* Three in a row make a request: header, data of either direction, status. */
	static const uint16_t flags[] = {1, 1, 2};
	uint64_t addr = some_address(world);
	uint32_t part = index % 3, len = part == 1 ? some_length(world) : 16;
	uint16_t flag = flags[part], link = (uint16_t)(index + 1);

	if (part == 1)
		flag |= below(world, 2) ? 2 : 0;
	if (part == 0 && !below(world, 4)) {
		flag = 4;
		addr = TABLES + 16 * 3 * below(world, 100);
		len = 16 * 3 * (1 + below(world, 4));
	}
	if (bad(world))
		flag = (uint16_t)next(&world->random) & (below(world, 2) ? 7 : 0xffff);
	if (bad(world))
		link = (uint16_t)below(world, 20);
	memcpy(where, &addr, 8);
	memcpy(where + 8, &len, 4);
	memcpy(where + 12, &flag, 2);
	memcpy(where + 14, &link, 2);
}

/* What a disk finds where the header should be. */
static void write_headers(struct world *world)
{
	static const uint32_t types[] = {0, 0, 1, 1, 4, 8, 11, 13, 99};

	for (uint32_t at = 0x20000; at + 16 < RAM; at += 16) {
		uint32_t type = types[below(world, sizeof(types) / sizeof(types[0]))];
		uint64_t sector = bad(world) ? next(&world->random) : below(world, SECTORS);

		memcpy(world->ram + at, &type, 4);
		memcpy(world->ram + at + 8, &sector, 8);
	}
}

static void *scribble(void *opaque)
{
	struct world *world = opaque;
	struct world own = {.random = world->random | 1, .sanity = world->sanity};

	while (__atomic_load_n(&world->scribbling, __ATOMIC_RELAXED)) {
		uint32_t at = below(&own, 2)
		                      ? RINGS + 0x1000 * below(&own, 2) + below(&own, 16 * SIZE)
		                      : TABLES + below(&own, 0x1000);

		if (!bad(&own))
			write_descriptor(&own, world->ram + (at & ~15u), at % 0x1000 / 16);
		else
			world->ram[at] = (uint8_t)next(&own.random);
	}
	return NULL;
}

static void fill_rings(struct world *world, uint32_t queues)
{
	for (uint32_t queue = 0; queue < queues; queue++) {
		uint8_t *rings = world->ram + RINGS + 0x1000 * queue;

		memset(rings, 0, 0x1000);
		for (uint32_t i = 0; i < SIZE; i++)
			write_descriptor(world, rings + 16 * i, i);
	}
	for (uint32_t i = 0; i < 512; i++)
		write_descriptor(world, world->ram + TABLES + 16 * i, i);
	write_headers(world);
}

static void offer(struct world *world, uint32_t queue, uint16_t *idx)
{
	uint8_t *avail = world->ram + RINGS + 0x1000 * queue + 16 * SIZE;
	uint32_t count = 1 + below(world, SIZE);

	for (uint32_t i = 0; i < count; i++) {
		uint16_t head = (uint16_t)(bad(world) ? next(&world->random) : 3 * below(world, 5));

		memcpy(avail + 4 + 2 * (*idx % SIZE), &head, 2);
		*idx += 1;
	}
	if (bad(world))
		*idx += (uint16_t)next(&world->random);
	memcpy(avail + 2, idx, 2);
}

static void start_driver(struct world *world, uint32_t queues)
{
	static const uint32_t features[] = {1u << 28 | 1u << 29, 1u << 28, 1u << 29, 0};

	write32(world, 0x70, 0);
	write32(world, 0x70, 3);
	write32(world, 0x24, 0);
	write32(world, 0x20, features[below(world, 4)]);
	write32(world, 0x24, 1);
	write32(world, 0x20, 1);
	write32(world, 0x70, 8);
	for (uint32_t queue = 0; queue < queues; queue++) {
		uint32_t at = RINGS + 0x1000 * queue;

		write32(world, 0x30, queue);
		write32(world, 0x38, SIZE);
		write32(world, 0x80, at);
		write32(world, 0x84, 0);
		write32(world, 0x90, at + 16 * SIZE);
		write32(world, 0x94, 0);
		write32(world, 0xa0, at + 0x800);
		write32(world, 0xa4, 0);
		write32(world, 0x44, 1);
	}
	write32(world, 0x70, 4);
}

static void poke_registers(struct world *world)
{
	for (int i = 0; i < 4; i++)
		access_register(world, below(world, 0x220), 1u << below(world, 4),
		                next(&world->random), below(world, 2));
}

static void run_driver(struct world *world)
{
	uint32_t queues = virtio_queue_count(world->device);
	uint16_t idx[QUEUES] = {0};
	pthread_t scribbler;

	fill_rings(world, queues);
	start_driver(world, queues);
	__atomic_store_n(&world->scribbling, 1, __ATOMIC_RELAXED);
	if (pthread_create(&scribbler, NULL, scribble, world))
		must(NULL, "pthread_create");
	for (int i = 0; i < KICKS; i++) {
		uint32_t queue = below(world, queues);
		char bytes[256];

		offer(world, queue, &idx[queue]);
		write32(world, 0x50, queue);
		if (bad(world))
			poke_registers(world);
		virtio_settle(world->device);
		if (write(world->sockets[1], "typed input", 11) < 0 && errno != EAGAIN)
			must(NULL, "write");
		if (recv(world->sockets[1], bytes, sizeof(bytes), MSG_DONTWAIT) < 0 &&
		    errno != EAGAIN)
			must(NULL, "recv");
	}
	__atomic_store_n(&world->scribbling, 0, __ATOMIC_RELAXED);
	pthread_join(scribbler, NULL);
}

static struct virtio_device *make_device(struct world *world, int kind)
{
	struct virtio_wiring wiring = {world->memory, world->thread, virtio_mmio_transport(),
	                               world->irq_fd};
	struct virtio_console_plug plug = {
	        .failed_fd = -1,
	        .input_fd = world->sockets[0],
	        .output_fd = world->sockets[0],
	        .escape = 1,
	        .quit_fd = -1,
	        .gate_fd = -1,
	};

	if (kind == 0)
		return virtio_rng_create(&wiring);
	if (kind == 1)
		return virtio_blk_create(&wiring, world->disk_fd, SECTORS, 0, "fuzz");
	if (kind == 2)
		return virtio_blk_create_memory(&wiring, world->disk, SECTORS, 0, "fuzz");
	return virtio_console_create(&wiring, &plug);
}

static void set_up(struct world *world)
{
	world->ram = guarded(RAM, PROT_READ | PROT_WRITE);
	world->rom = guarded(ROM_SIZE, PROT_READ);
	world->memory = must(guest_memory_create(), "guest_memory_create");
	guest_memory_add(world->memory, 0, RAM, world->ram, 0);
	guest_memory_add(world->memory, ROM_AT, ROM_SIZE, world->rom, GUEST_MEMORY_READONLY);
	world->thread = must(iothread_create("fuzz"), "iothread_create");
	world->irq_fd = eventfd(0, EFD_NONBLOCK);
	world->disk = guarded((size_t)SECTORS * VIRTIO_BLK_SECTOR, PROT_READ | PROT_WRITE);
	guest_memory_add(world->memory, DISK_AT, (uint64_t)SECTORS * VIRTIO_BLK_SECTOR, world->disk,
	                 GUEST_MEMORY_APERTURE);
	world->disk_fd = memfd_create("disk", 0);
	if (ftruncate(world->disk_fd, SECTORS * VIRTIO_BLK_SECTOR))
		must(NULL, "ftruncate");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, world->sockets))
		must(NULL, "socketpair");
	for (int i = 0; i < QUEUES; i++)
		world->kicks[i] = eventfd(0, EFD_NONBLOCK);
}

int main(int argc, char **argv)
{
	struct world world = {.random = 1, .sanity = 2};
	struct virtio_stats total = {0};
	int rounds = argc > 2 ? atoi(argv[2]) : 100;

	if (argc > 1)
		world.random = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ULL | 1;
	set_up(&world);
	for (int round = 0; round < rounds; round++) {
		struct virtio_stats stats;

		world.sanity = 2u << below(&world, 10);
		world.device = must(make_device(&world, round % 4), "device");
		for (int i = 0; i < QUEUES; i++)
			virtio_set_kick(world.device, (uint32_t)i, world.kicks[i]);
		run_driver(&world);
		virtio_stats(world.device, &stats);
		virtio_destroy(world.device);
		total.requests += stats.requests;
		for (int i = 0; i < VIRTQUEUE_VIOLATIONS; i++)
			total.violations[i] += stats.violations[i];
	}
	iothread_destroy(world.thread);
	guest_memory_destroy(world.memory);
	printf("%llu requests", (unsigned long long)total.requests);
	for (uint32_t i = 1; i < VIRTQUEUE_VIOLATIONS; i++)
		printf(", %llu %s", (unsigned long long)total.violations[i],
		       virtqueue_violation_name(i));
	printf("\n");
	return 0;
}
