/* SPDX-License-Identifier: Apache-2.0 */
/* A driver that is the input: register accesses, rings and buffers, and what the host brings
 * meanwhile. */
#include "virtio_world.h"

#include <string.h>

#include "virtio/console.h"
#include "virtio/mmio.h"

enum {
	SIZE = 16,
	/* Of a queue's rings: descriptors, at 0x100 available, at 0x200 used. */
	QUEUE_BYTES = 0x400,
	AVAIL = 0x100,
	USED = 0x200,
	TABLES = 0x1000,
	BUFFERS = 0x2000,
	OPERATIONS = 16,
};

static uint64_t access_register(struct world *world, uint32_t offset, uint32_t length,
                                uint64_t value, bool is_write)
{
	struct bus_access access = {
	        .address = offset,
	        .offset = offset,
	        .value = value,
	        .length = length,
	        .is_write = is_write,
	};

	virtio_mmio_access(world->device, &access);
	return access.value;
}

static void write32(struct world *world, uint32_t offset, uint32_t value)
{
	access_register(world, offset, 4, value, true);
}

static uint32_t rings_of(uint32_t queue)
{
	return queue % QUEUES * QUEUE_BYTES;
}

static void write_ram(uint32_t at, const void *bytes, size_t length)
{
	at %= RAM;
	memcpy(ram + at, bytes, length < RAM - at ? length : RAM - at);
}

/* What the input is made of, an operation each. */

static void do_write_register(struct world *world)
{
	static const uint16_t offsets[] = {0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64,
	                                   0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x120};

	write32(world, offsets[input_below(&world->input, 16)], input_32(&world->input));
}

static void do_access_register(struct world *world)
{
	uint16_t what = input_16(&world->input);

	access_register(world, what % 0x220, 1u << (what >> 10 & 3), input_64(&world->input),
	                what >> 15);
}

static void do_write_memory(struct world *world)
{
	uint16_t at = input_16(&world->input);
	uint8_t bytes[32];
	size_t length = input_below(&world->input, sizeof(bytes));

	length = input_copy(&world->input, bytes, length);
	write_ram(at, bytes, length);
}

/* An address: mostly in RAM, sometimes at an edge, in the disk's own memory or read-only. */
static uint64_t some_address(struct input *input)
{
	static const uint64_t edges[] = {0,
	                                 RAM - 16,
	                                 RAM - 1,
	                                 RAM,
	                                 ROM_AT,
	                                 ROM_AT + ROM - 1,
	                                 DISK_AT + DISK - 512,
	                                 ~0ULL,
	                                 ~0ULL - 0xffff,
	                                 1ULL << 63,
	                                 1ULL << 31,
	                                 0xffffffffULL};
	uint8_t how = input_8(input);

	if (how < 192)
		return BUFFERS + how * 256;
	if (how < 224)
		return DISK_AT + (how - 192) * 2048;
	if (how < 254)
		return edges[how % (sizeof(edges) / sizeof(edges[0]))];
	return input_64(input);
}

static uint32_t some_length(struct input *input)
{
	uint8_t how = input_8(input);

	if (how < 64)
		return how;
	if (how < 224)
		return (how - 63u) * 512;
	return how < 254 ? (0x10000u << (how & 15)) - (how >> 4 & 1) : input_32(input);
}

static void write_descriptor(struct world *world, uint32_t where)
{
	uint64_t addr = some_address(&world->input);
	uint32_t len = some_length(&world->input);
	uint16_t flags = input_8(&world->input), next = input_8(&world->input) % (SIZE + 2);

	write_ram(where, &addr, 8);
	write_ram(where + 8, &len, 4);
	write_ram(where + 12, &flags, 2);
	write_ram(where + 14, &next, 2);
}

static void do_write_descriptor(struct world *world)
{
	uint8_t which = input_8(&world->input);

	if (which & 0x80)
		write_descriptor(world, TABLES + 16 * (which & 0x7f));
	else
		write_descriptor(world, rings_of(which >> 4) + 16 * (which % SIZE));
}

static void offer(struct world *world, uint32_t queue, uint16_t head)
{
	uint16_t *idx = &world->avail[queue % QUEUES];
	uint32_t avail = rings_of(queue) + AVAIL;

	write_ram(avail + 4 + 2u * (*idx % SIZE), &head, 2);
	*idx += 1;
	write_ram(avail + 2, idx, 2);
}

static void kick(struct world *world, uint32_t queue)
{
	write32(world, VIRTIO_MMIO_NOTIFY, queue);
	if (queue < virtio_queue_count(world->device))
		eventfd_signal(world->device->queues[queue].kick.fd);
	iothread_turn(world->thread);
}

static void do_offer(struct world *world)
{
	uint8_t what = input_8(&world->input);

	offer(world, what >> 4, what & 0x0f);
	if (what & 0x40)
		kick(world, what >> 4 & 3);
}

static void do_kick(struct world *world)
{
	kick(world, input_below(&world->input, 5));
}

/* A request as a good driver makes it: a header in RAM, buffers, a byte of status. */
static void do_request(struct world *world)
{
	struct input *input = &world->input;
	uint8_t what = input_8(input);
	uint32_t queue = what & 1, count = 1 + (what >> 1 & 3), rings = rings_of(queue);
	uint64_t sector = what & 8 ? input_64(input) : input_8(input);
	uint32_t type = input_below(input, 16),
	         header[4] = {type, 0, (uint32_t)sector, (uint32_t)(sector >> 32)};

	write_ram(BUFFERS, header, sizeof(header));
	for (uint32_t i = 0; i < count + 2; i++) {
		uint64_t addr = i ? some_address(input) : BUFFERS;
		uint32_t len = i == 0 ? 16 : i == count + 1 ? 1 : some_length(input);
		uint16_t flags = i <= count, next = (uint16_t)(i + 1);

		if (i == count + 1 || (i && what & 0x10))
			flags |= 2;
		write_ram(rings + 16 * i, &addr, 8);
		write_ram(rings + 16 * i + 8, &len, 4);
		write_ram(rings + 16 * i + 12, &flags, 2);
		write_ram(rings + 16 * i + 14, &next, 2);
	}
	offer(world, queue, 0);
	kick(world, queue);
}

/* What the descriptors bring. */
static void do_send(struct world *world)
{
	uint8_t what = input_8(&world->input), bytes[HOST_LINE_BYTES];
	size_t length = what & 0x80 ? (size_t)(what & 0x7f) * 32 : what & 0x3f;

	memset(bytes, 0, sizeof(bytes));
	input_copy(&world->input, bytes, length < 16 ? length : 16);
	if (length)
		host_send(world->kind == NET ? world->tap : world->in, bytes, length);
	else
		host_end(world->kind == NET ? world->tap : world->in);
	iothread_turn(world->thread);
}

static void do_room(struct world *world)
{
	uint8_t room = input_8(&world->input);

	host_set_room(world->kind == NET ? world->tap : world->out,
	              room == 0xff ? SIZE_MAX : (size_t)room * room);
	iothread_turn(world->thread);
}

static void do_outcomes(struct world *world)
{
	uint8_t bytes[16];
	size_t count = input_copy(&world->input, bytes, input_below(&world->input, 16));

	host_outcomes(bytes, count);
}

static void do_race(struct world *world)
{
	uint32_t moment = input_below(&world->input, 64);
	uint16_t at = input_16(&world->input);
	uint8_t bytes[16];
	size_t length = input_copy(&world->input, bytes, input_below(&world->input, 16));

	if (length && at + length <= RAM)
		host_race(moment, ram + at, bytes, length);
}

void start_driver(struct world *world, uint32_t low, uint32_t high)
{
	write32(world, 0x70, 0);
	write32(world, 0x70, 3);
	write32(world, 0x24, 0);
	write32(world, 0x20, low);
	write32(world, 0x24, 1);
	write32(world, 0x20, high);
	write32(world, 0x70, 8);
	for (uint32_t queue = 0; queue < virtio_queue_count(world->device); queue++) {
		uint32_t at = rings_of(queue);

		write32(world, 0x30, queue);
		write32(world, 0x38, SIZE);
		write32(world, 0x80, at);
		write32(world, 0x84, 0);
		write32(world, 0x90, at + AVAIL);
		write32(world, 0x94, 0);
		write32(world, 0xa0, at + USED);
		write32(world, 0xa4, 0);
		write32(world, 0x44, 1);
		world->avail[queue] = 0;
	}
	write32(world, 0x70, 4);
	iothread_turn(world->thread);
}

/* Features as offered, less the bits of the mask. */
static void do_start(struct world *world)
{
	uint16_t mask = input_16(&world->input);
	uint64_t offered = world->device->offered;
	uint32_t low = (uint32_t)offered & ~((uint32_t)(mask & 0xff) << 24 | (mask >> 8));

	memset(ram, 0, QUEUES * QUEUE_BYTES);
	start_driver(world, low, (uint32_t)(offered >> 32));
}

static void do_extras(struct world *world)
{
	struct virtio_stats stats;

	switch (input_below(&world->input, 9)) {
	case 0:
		if (world->kind == CONSOLE)
			virtio_console_drain(world->device, input_8(&world->input));
		break;
	case 1:
		if (world->kind == CONSOLE)
			virtio_console_set_size(world->device, 80, input_8(&world->input));
		break;
	case 2:
		virtio_stats(world->device, &stats);
		break;
	case 3:
		if (world->gate >= 0)
			eventfd_signal(world->gate);
		iothread_turn(world->thread);
		break;
	case 4:
		virtio_settle(world->device);
		break;
	case 5:
		host_hurry(input_8(&world->input));
		break;
	case 7:
		host_lose(input_8(&world->input));
		break;
	case 6:
		host_give_up(input_8(&world->input));
		break;
	default:
		iothread_turn(world->thread);
		break;
	}
}

void operate(struct world *world)
{
	static void (*const operations[])(struct world *) = {
	        do_write_register,
	        do_access_register,
	        do_write_memory,
	        do_write_descriptor,
	        do_write_descriptor,
	        do_offer,
	        do_kick,
	        do_request,
	        do_request,
	        do_send,
	        do_room,
	        do_outcomes,
	        do_race,
	        do_start,
	        do_extras,
	        do_offer,
	};

	operations[input_below(&world->input, OPERATIONS)](world);
}
