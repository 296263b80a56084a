/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serial port: register accesses of a guest, what is typed at it, and an output that takes
 * bytes, is full, or fails.
 */
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "host/iothread.h"
#include "input.h"
#include "serial/serial.h"

struct world {
	struct input input;
	struct serial *serial;
	struct iothread *thread;
	int in, out, quit;
};

static void do_write(struct world *world)
{
	uint8_t what = input_8(&world->input);
	struct bus_access access = {.offset = what & 7, .is_write = 1};

	access.length = 1u << (what >> 6);
	access.value = access.length > 1 ? input_64(&world->input) : input_8(&world->input);
	serial_access(world->serial, &access);
}

static void do_read(struct world *world)
{
	uint8_t what = input_8(&world->input);
	struct bus_access access = {.offset = what & 7, .length = 1u << (what >> 6)};

	serial_access(world->serial, &access);
}

/* A run of bytes to the transmitter, as a console prints. */
static void do_print(struct world *world)
{
	uint8_t what = input_8(&world->input);
	uint32_t count = what & 0x80 ? SERIAL_RING / 2 : what & 0x3f;

	for (uint32_t i = 0; i < count; i++) {
		struct bus_access access = {.length = 1, .is_write = 1, .value = i};

		serial_access(world->serial, &access);
	}
}

static void do_type(struct world *world)
{
	uint8_t bytes[HOST_LINE_BYTES], what = input_8(&world->input);
	size_t length = what & 0x80 ? (size_t)(what & 0x7f) * 32 : what & 0x1f;

	memset(bytes, 0, sizeof(bytes));
	input_copy(&world->input, bytes, length < 16 ? length : 16);
	if (world->in < 0 || what & 0x40)
		serial_feed(world->serial, bytes, length);
	else if (length)
		host_send(world->in, bytes, length);
	else
		host_end(world->in);
}

static void do_room(struct world *world)
{
	uint8_t room = input_8(&world->input);

	if (world->out >= 0)
		host_set_room(world->out, room == 0xff ? SIZE_MAX : (size_t)room * room);
}

static void do_outcomes(struct world *world)
{
	uint8_t bytes[16];
	size_t count = input_copy(&world->input, bytes, input_below(&world->input, 16));

	host_outcomes(bytes, count);
}

static void do_look(struct world *world)
{
	uint8_t what = input_8(&world->input), *tail;
	size_t length = (size_t)what * 300;
	struct serial_stats stats;

	if (what & 1) {
		serial_drain(world->serial, what);
		return;
	}
	tail = malloc(length + 1);
	if (tail)
		serial_tail(world->serial, tail, length);
	free(tail);
	serial_get_stats(world->serial, &stats);
	/* Each byte that was sent is written, waits, or was lost, and none is two of these. */
	if (stats.written + stats.dropped > stats.sent)
		abort();
}

static void do_turn(struct world *world)
{
	if (world->in >= 0 || world->out >= 0)
		iothread_turn(world->thread);
}

static void set_up(struct world *world)
{
	static const enum host_kind kinds[] = {HOST_NONE, HOST_SOCKET, HOST_PIPE, HOST_FILE};
	uint8_t how = input_8(&world->input);
	struct serial_config config = {.escape = how & 1, .log_fd = -1, .failed_fd = -1};

	host_reset();
	world->thread = iothread_create("fuzz");
	world->in = how >> 1 & 3 ? host_make(kinds[how >> 1 & 3]) : -1;
	world->out = how >> 3 & 3 ? host_make(kinds[how >> 3 & 3]) : -1;
	world->quit = how & 0x20 ? host_make(HOST_EVENT) : -1;
	if (how & 0x80) {
		config.log_fd = host_make(HOST_FILE);
		config.failed_fd = host_make(HOST_EVENT);
	}
	config.irq_fd = how & 0x40 ? host_make(HOST_EVENT) : -1;
	config.input_fd = world->in;
	config.output_fd = world->out;
	config.quit_fd = world->quit;
	world->serial = serial_create(&config);
	if (!world->serial)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const operations[])(struct world *) = {
	        do_write,    do_write, do_read, do_print, do_type, do_room,
	        do_outcomes, do_look,  do_turn, do_write, do_read, do_turn,
	};
	struct world world = {.input = {data, size}};

	set_up(&world);
	while (world.input.left)
		operations[input_below(&world.input, 12)](&world);
	serial_destroy(world.serial);
	return 0;
}
