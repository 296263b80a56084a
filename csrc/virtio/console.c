/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/console.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "host/framing.h"
#include "host/stream.h"
#include "host/terminal.h"
#include "virtio/serve.h"

enum {
	QUEUE_SIZE = 256,
	RX = 0,
	TX = 1,
	QUEUES,
	CHUNK = 4096,
	POLL_MS = 50, /* while draining: how long to trust that nothing else changes */
	/* So much of the queued output is written out at the end. A ring full of chains as Linux
	 * makes them is half of it. */
	DRAIN_BYTES = 16 << 20,
};

struct virtio_console {
	struct virtio_device device;
	struct stream input, output;
	struct iothread_watch input_watch, output_watch, gate_watch;
	bool input_watched, output_watched;

	/* Input read but not yet delivered. It is read before the guest asks, or the escape keys
	 * would not work while it boots or hangs. Room for a withheld ctrl-a and for framing. */
	uint8_t backlog[2 * (CHUNK + 1)];
	struct iovec waiting;
	struct escape_filter filter;
	bool escape;
	bool gated; /* the guest is not ready for input yet */
	bool framed;
	bool end_owed; /* the guest is still to be told of the end of framed input */
	bool drained;  /* atomic: all that the guest had queued is written out */

	int failed_fd;
	int output_error;
	bool tx_waits; /* the TX queue's chain does until the output takes bytes */
};

static struct virtio_console *console_of(struct virtio_device *device)
{
	return (struct virtio_console *)((char *)device - offsetof(struct virtio_console, device));
}

static struct virtio_queue *queue_of(struct virtio_console *console, unsigned int index)
{
	return &console->device.queues[index];
}

/* Input. */

static void unwatch_input(struct virtio_console *console)
{
	/* Not just masked: epoll reports a hang-up regardless of the mask, for ever. */
	if (console->input_watched)
		iothread_del(console->device.thread, &console->input_watch);
	console->input_watched = false;
}

static void close_input(struct virtio_console *console)
{
	unwatch_input(console);
	stream_close(&console->input);
}

static void watch_input(struct virtio_console *console)
{
	if (console->input_watched || console->gated || !stream_is_open(&console->input))
		return;
	console->input_watch.fd = console->input.fd;
	console->input_watched =
	        !iothread_add(console->device.thread, &console->input_watch, EPOLLIN);
}

static bool refill_with_end(struct virtio_console *console)
{
	if (!console->end_owed)
		return false;
	console->end_owed = false;
	console->backlog[0] = FRAMING_DLE;
	console->backlog[1] = FRAMING_EOT;
	console->waiting = (struct iovec){console->backlog, 2};
	return true;
}

/* Reads into the empty backlog; false when there is nothing to read now. */
static bool refill(struct virtio_console *console)
{
	ssize_t got;
	size_t kept;

	if (console->gated)
		return false;
	if (!stream_is_open(&console->input))
		return refill_with_end(console);
	got = stream_read(&console->input, console->backlog, CHUNK);
	if (got == -EAGAIN)
		return false;
	if (got <= 0) {
		close_input(console);
		return refill_with_end(console);
	}
	kept = (size_t)got;
	if (console->escape)
		kept = escape_filter(&console->filter, console->backlog, kept);
	if (console->framed)
		kept = framing_escape(console->backlog, kept);
	console->waiting = (struct iovec){console->backlog, kept};
	return true;
}

/* True if there is a chain to fill; asks for a kick if not. */
static bool pop_rx(struct virtio_queue *queue)
{
	if (virtio_pop(queue))
		return true;
	return virtqueue_is_live(&queue->ring) && !virtio_is_broken(queue->device) &&
	       virtqueue_resume_kicks(&queue->ring) && virtio_pop(queue);
}

static bool deliver(struct virtio_console *console)
{
	struct virtio_queue *queue = queue_of(console, RX);
	struct iovec *waiting = &console->waiting;
	size_t done;

	if (!pop_rx(queue))
		return false;
	virtqueue_suppress_kicks(&queue->ring);
	done = iovec_put(&queue->chain->writable, waiting->iov_base, waiting->iov_len);
	waiting->iov_base = (uint8_t *)waiting->iov_base + done;
	waiting->iov_len -= done;
	virtio_push(queue, (uint32_t)done);
	virtio_count(&console->device.stats.bytes_to_guest, done);
	virtio_spend(queue, done);
	return true;
}

static void pump_input(struct virtio_console *console)
{
	struct virtio_queue *queue = queue_of(console, RX);

	virtio_begin_turn(queue);
	while (!virtio_turn_is_over(queue)) {
		if (!console->waiting.iov_len && !refill(console))
			break;
		if (console->waiting.iov_len && !deliver(console))
			break;
	}
	if (console->waiting.iov_len)
		unwatch_input(console);
	else
		watch_input(console);
	virtio_interrupt(queue);
	/* A file is always ready, so no event will tell that there is more. */
	if (virtio_turn_is_over(queue))
		virtio_ask_turn(queue);
}

static void input_ready(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	pump_input(watch->opaque);
}

static void close_gate_watch(struct virtio_console *console)
{
	if (console->gated)
		iothread_del(console->device.thread, &console->gate_watch);
	console->gated = false;
}

static void gate_opened(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	close_gate_watch(watch->opaque);
	pump_input(watch->opaque);
}

static void first_input(void *opaque)
{
	pump_input(opaque);
}

/* Output. */

static void unwatch_output(struct virtio_console *console)
{
	if (console->output_watched)
		iothread_del(console->device.thread, &console->output_watch);
	console->output_watched = false;
}

static void close_output(struct virtio_console *console)
{
	unwatch_output(console);
	console->filter.help_fd = -1;
	stream_close(&console->output);
}

/* Calls output_ready() once when the output takes bytes again, or fails for good. */
static int watch_output(struct virtio_console *console)
{
	const uint32_t events = EPOLLOUT | EPOLLONESHOT;
	int ret;

	console->output_watch.fd = console->output.fd;
	ret = console->output_watched
	              ? iothread_mod(console->device.thread, &console->output_watch, events)
	              : iothread_add(console->device.thread, &console->output_watch, events);
	console->output_watched = ret == 0;
	return ret;
}

/* Writes what is left of the held chain; false if that is not all: the output does not take it
 * (tx_waits), or the turn is over. */
static bool write_held(struct virtio_console *console)
{
	struct virtio_queue *queue = queue_of(console, TX);
	struct iovec_list *from = &queue->chain->readable;

	while (from->bytes && stream_is_open(&console->output)) {
		ssize_t done = stream_write(&console->output, from);

		if (done >= 0) {
			iovec_skip(from, (size_t)done);
			virtio_count(&console->device.stats.bytes_from_guest, (uint64_t)done);
			virtio_spend(queue, (uint64_t)done);
			if (from->bytes && virtio_turn_is_over(queue))
				return false;
			continue;
		}
		if (done == -EFAULT)
			break; /* what the guest wants to write is gone; the output is not */
		console->tx_waits = done == -EAGAIN && !watch_output(console);
		if (console->tx_waits)
			return false;
		/* Nobody reads any more. The guest need not know. */
		__atomic_store_n(&console->output_error, (int)-done, __ATOMIC_RELEASE);
		close_output(console);
		if (console->failed_fd >= 0)
			eventfd_signal(console->failed_fd);
	}
	if (from->bytes)
		virtio_count(&console->device.stats.errors, 1);
	return true;
}

/* Writes out what is available; true when that is all, false when the rest must wait. */
static bool pump_output(struct virtio_console *console)
{
	struct virtio_queue *queue = queue_of(console, TX);
	bool more = true;

	if (!virtqueue_is_live(&queue->ring) || virtio_is_broken(&console->device))
		return true;
	console->tx_waits = false;
	virtio_begin_turn(queue);
	virtqueue_suppress_kicks(&queue->ring);
	while (more && !console->tx_waits && !virtio_turn_is_over(queue)) {
		if (!queue->held && !virtio_pop(queue)) {
			more = virtio_look_again(queue);
			continue;
		}
		queue->held = !write_held(console);
		if (!queue->held)
			virtio_push(queue, 0);
	}
	virtio_interrupt(queue);
	if (more && !console->tx_waits)
		virtio_ask_turn(queue);
	return !more;
}

static void output_ready(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	pump_output(watch->opaque);
}

/* The device. */

static void kick(struct virtio_device *device, struct virtio_queue *queue)
{
	struct virtio_console *console = console_of(device);

	if (queue->index == RX)
		pump_input(console);
	else if (!console->tx_waits)
		pump_output(console);
}

static void stop_queue(struct virtio_device *device, struct virtio_queue *queue)
{
	struct virtio_console *console = console_of(device);

	if (queue->index != TX)
		return;
	console->tx_waits = false;
	unwatch_output(console);
}

static void destroy(struct virtio_device *device)
{
	struct virtio_console *console = console_of(device);

	close_gate_watch(console);
	close_input(console);
	close_output(console);
	virtio_release(device);
	free(console);
}

static const struct virtio_operations operations = {
        .kick = kick,
        .stop_queue = stop_queue,
        .destroy = destroy,
};

void virtio_console_set_size(struct virtio_device *device, uint16_t columns, uint16_t rows)
{
	uint16_t size[2] = {columns, rows};

	virtio_update_config(device, offsetof(struct virtio_console_config, cols), size,
	                     sizeof(size));
}

int virtio_console_output_error(const struct virtio_device *device)
{
	const struct virtio_console *console =
	        (const void *)((const char *)device - offsetof(struct virtio_console, device));

	return __atomic_load_n(&console->output_error, __ATOMIC_ACQUIRE);
}

/* Draining. */

static void drain_some(void *opaque)
{
	struct virtio_console *console = opaque;

	__atomic_store_n(&console->drained, pump_output(console), __ATOMIC_RELAXED);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool has_passed(const void *deadline)
{
	return now_ms() >= *(const int64_t *)deadline;
}

static uint64_t written(const struct virtio_console *console)
{
	return __atomic_load_n(&console->device.stats.bytes_from_guest, __ATOMIC_RELAXED);
}

int virtio_console_drain(struct virtio_device *device, uint32_t milliseconds)
{
	struct virtio_console *console = console_of(device);
	uint64_t enough = written(console) + DRAIN_BYTES;
	int64_t deadline = now_ms() + milliseconds;

	__atomic_store_n(&console->drained, false, __ATOMIC_RELAXED);
	for (;;) {
		struct pollfd output = {.events = POLLOUT};
		int64_t left;

		/* The output may be a file on a disk that stands still. */
		iothread_call_unless(device->thread, drain_some, console, has_passed, &deadline);
		if (__atomic_load_n(&console->drained, __ATOMIC_RELAXED))
			return 0;
		left = deadline - now_ms();
		if (left <= 0)
			return -ETIMEDOUT;
		if (written(console) >= enough)
			return -EFBIG;
		/* Only the time counts here; the next call finds out what happened. */
		output.fd = console->output.fd;
		poll(&output, 1, left < POLL_MS ? (int)left : POLL_MS);
	}
}

static int plug_in(struct virtio_console *console, const struct virtio_console_plug *plug)
{
	int ret = stream_open(&console->input, plug->input_fd, O_RDONLY);

	if (ret)
		return ret;
	ret = stream_open(&console->output, plug->output_fd, O_WRONLY);
	if (ret)
		return ret;
	if (plug->gate_fd >= 0) {
		console->gate_watch = (struct iothread_watch){plug->gate_fd, gate_opened, console};
		ret = iothread_add(console->device.thread, &console->gate_watch, EPOLLIN);
		if (ret)
			return ret;
		console->gated = true;
	}
	console->escape = plug->escape;
	console->failed_fd = plug->failed_fd;
	console->framed = console->end_owed = plug->framed;
	escape_filter_init(&console->filter, plug->quit_fd, console->output.fd);
	console->input_watch = (struct iothread_watch){-1, input_ready, console};
	console->output_watch = (struct iothread_watch){-1, output_ready, console};
	return 0;
}

struct virtio_device *virtio_console_create(const struct virtio_wiring *wiring,
                                            const struct virtio_console_plug *plug)
{
	struct virtio_console *console = calloc(1, sizeof(*console));
	int ret;

	if (!console)
		return NULL;
	console->input.fd = console->output.fd = -1;
	ret = virtio_init(&console->device, VIRTIO_ID_CONSOLE, &operations, wiring, QUEUES);
	console->device.offered |= 1ULL << VIRTIO_CONSOLE_F_SIZE;
	console->device.config_size = sizeof(struct virtio_console_config);
	if (!ret)
		ret = plug_in(console, plug);
	for (unsigned int i = 0; i < QUEUES && !ret; i++)
		ret = virtio_add_queue(&console->device, QUEUE_SIZE);
	if (ret) {
		destroy(&console->device);
		errno = -ret;
		return NULL;
	}
	iothread_call(wiring->thread, first_input, console);
	return &console->device;
}
