/* SPDX-License-Identifier: Apache-2.0 */
#include "serial/line.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
	/* A driver that sees THRE writes a FIFO's worth without asking again. */
	RESERVE = 16,
	/* Once something was written, look again after this long rather than be woken for each
	 * byte: a guest under nested emulation needs 60 us a byte, a wake-up costs both sides more.
	 */
	PUMP_NS = 1000 * 1000,
	CHUNK = 4096,
	/* Reads or writes before the other direction gets its turn: the escape keys must work while
	 * a guest never stops writing. */
	BUDGET = 64,
	LOG_WAIT_MS = 1000,
};

bool serial_line_full(const struct serial_line *line)
{
	return line->sent - line->written == SERIAL_RING;
}

void serial_line_flush(struct serial_line *line)
{
	if (line->thread)
		eventfd_signal(line->kick_fd);
}

void serial_line_put(struct serial_line *line, uint8_t byte)
{
	line->ring[line->sent++ % SERIAL_RING] = byte;
	if (!line->open) {
		line->written = line->sent;
		if (line->output.fd >= 0)
			line->lost++;
		return;
	}
	if (SERIAL_RING - (line->sent - line->written) < RESERVE)
		line->blocked = true;
	if (!line->pumping) {
		line->pumping = true;
		serial_line_flush(line);
	}
}

uint64_t serial_line_tail(const struct serial_line *line, uint8_t *buffer, uint64_t length)
{
	uint64_t start;

	if (length > SERIAL_RING)
		length = SERIAL_RING;
	if (length > line->sent)
		length = line->sent;
	start = line->sent - length;
	for (uint64_t i = 0; i < length; i++)
		buffer[i] = line->ring[(start + i) % SERIAL_RING];
	return length;
}

uint64_t serial_line_waiting(const struct serial_line *line)
{
	return line->given - line->taken;
}

bool serial_line_take(struct serial_line *line, uint8_t *byte)
{
	if (line->taken == line->given)
		return false;
	*byte = line->backlog[line->taken++ % sizeof(line->backlog)];
	if (line->paused && serial_line_waiting(line) <= SERIAL_BACKLOG / 2) {
		line->paused = false;
		line->resume = true;
		serial_line_flush(line);
	}
	return true;
}

/* Bytes that were returned may lie beyond it. */
static uint64_t backlog_room(const struct serial_line *line)
{
	uint64_t waiting = serial_line_waiting(line);

	return waiting < SERIAL_BACKLOG ? SERIAL_BACKLOG - waiting : 0;
}

uint64_t serial_line_give(struct serial_line *line, const uint8_t *bytes, uint64_t length)
{
	uint64_t room = backlog_room(line);

	if (length > room)
		length = room;
	for (uint64_t i = 0; i < length; i++)
		line->backlog[line->given++ % sizeof(line->backlog)] = bytes[i];
	return length;
}

void serial_line_return(struct serial_line *line, const uint8_t *bytes, uint64_t length)
{
	line->taken -= length;
	for (uint64_t i = 0; i < length; i++)
		line->backlog[(line->taken + i) % sizeof(line->backlog)] = bytes[i];
}

/* As much as goes without waiting, to a socket or to a descriptor that `blocks`. */
static ssize_t write_at_once(int fd, bool socket, bool blocks, const uint8_t *bytes, size_t length)
{
	struct pollfd ready = {.fd = fd, .events = POLLOUT};

	if (socket)
		return send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (!blocks)
		return write(fd, bytes, length);
	if (poll(&ready, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(fd, bytes, length < CHUNK ? length : CHUNK);
}

static ssize_t write_some(const struct serial_line *line, const uint8_t *bytes, size_t length)
{
	return write_at_once(line->output.fd, line->output_socket, line->output_blocks, bytes,
	                     length);
}

static void note_written(struct serial_line *line, size_t length)
{
	line->written += length;
	if (line->blocked && line->sent - line->written <= SERIAL_RING / 2) {
		line->blocked = false;
		line->unblocked = true;
	}
	line->changed(line->opaque);
}

/* The log, if there is one, is the output from now on: it has had all that was written so far. */
static bool go_on_with_log(struct serial_line *line)
{
	if (line->log_fd < 0)
		return false;
	if (line->output_watched)
		iothread_del(line->thread, &line->output);
	line->output_watched = false;
	close(line->output.fd);
	line->filter.help_fd = -1;
	line->output.fd = line->log_fd;
	line->log_fd = -1;
	line->output_is_log = true;
	line->output_socket = line->log_socket;
	line->output_blocks = line->log_blocks;
	return true;
}

/* With the lock held; `length` bytes of the ring were tried. */
static void output_failed(struct serial_line *line, int error, size_t length)
{
	if (line->output_is_log) {
		line->log_error = error;
	} else {
		line->output_error = error;
		if (line->failed_fd >= 0)
			eventfd_signal(line->failed_fd);
		if (go_on_with_log(line)) {
			note_written(line, length);
			return;
		}
	}
	line->open = false;
	line->lost += line->sent - line->written;
	note_written(line, (size_t)(line->sent - line->written));
}

static void arm_timer(const struct serial_line *line)
{
	struct itimerspec once = {.it_value.tv_nsec = PUMP_NS};

	timerfd_settime(line->timer_fd, 0, &once, NULL);
}

static void watch_output(struct serial_line *line)
{
	const uint32_t events = EPOLLOUT | EPOLLONESHOT;
	int ret;

	ret = line->output_watched ? iothread_mod(line->thread, &line->output, events)
	                           : iothread_add(line->thread, &line->output, events);
	line->output_watched = ret == 0;
	if (ret)
		arm_timer(line);
}

/* The next run of bytes to write. With none, and none written just before either, the guest's next
 * byte must wake the thread. */
static uint64_t next_run(struct serial_line *line, bool wrote, const uint8_t **bytes)
{
	uint64_t start, length;

	pthread_mutex_lock(line->lock);
	start = line->written % SERIAL_RING;
	length = line->sent - line->written;
	if (!length && !wrote)
		line->pumping = false;
	pthread_mutex_unlock(line->lock);
	*bytes = line->ring + start;
	return length < SERIAL_RING - start ? length : SERIAL_RING - start;
}

static void log_failed(struct serial_line *line, int error)
{
	pthread_mutex_lock(line->lock);
	line->log_error = error;
	pthread_mutex_unlock(line->lock);
	close(line->log_fd);
	line->log_fd = -1;
}

/* A file takes all at once. A pipe or a socket whose reader stands still is given a while, then up.
 */
static void log_bytes(struct serial_line *line, const uint8_t *bytes, size_t length)
{
	while (length && line->log_fd >= 0) {
		struct pollfd ready = {.fd = line->log_fd, .events = POLLOUT};
		ssize_t done = write_at_once(line->log_fd, line->log_socket, line->log_blocks,
		                             bytes, length);

		if (done >= 0) {
			bytes += done;
			length -= (size_t)done;
		} else if (errno == EAGAIN && poll(&ready, 1, LOG_WAIT_MS) == 0) {
			log_failed(line, ETIMEDOUT);
		} else if (errno != EAGAIN && errno != EINTR) {
			log_failed(line, errno);
		}
	}
}

static void pump_output(struct serial_line *line)
{
	const uint8_t *bytes;
	uint64_t length, writes = 0;
	int error;

	while (writes < BUDGET && (length = next_run(line, writes, &bytes))) {
		/* The guest adds behind these bytes and never changes them. */
		ssize_t ret = write_some(line, bytes, (size_t)length);

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0 && errno == EAGAIN) {
			watch_output(line);
			return;
		}
		error = errno;
		log_bytes(line, bytes, (size_t)(ret < 0 ? (ssize_t)length : ret));
		pthread_mutex_lock(line->lock);
		if (ret < 0)
			output_failed(line, error, (size_t)length);
		else
			note_written(line, (size_t)ret);
		pthread_mutex_unlock(line->lock);
		writes++;
	}
	if (writes == BUDGET)
		serial_line_flush(line);
	else if (writes)
		arm_timer(line);
}

/* A job in the background may not read its terminal, but it may come to the foreground again. */
static bool in_background(int fd)
{
	pid_t foreground = tcgetpgrp(fd);

	return foreground > 0 && foreground != getpgrp();
}

static void close_input(struct serial_line *line)
{
	if (line->input_polled)
		iothread_del(line->thread, &line->input);
	close(line->input.fd);
	line->input.fd = -1;
}

static void receive(struct serial_line *line, uint8_t *bytes, size_t length)
{
	if (line->escape)
		length = escape_filter(&line->filter, bytes, length);
	pthread_mutex_lock(line->lock);
	line->refused += length - serial_line_give(line, bytes, length);
	line->changed(line->opaque);
	pthread_mutex_unlock(line->lock);
}

static size_t input_room(struct serial_line *line)
{
	uint64_t room;

	pthread_mutex_lock(line->lock);
	room = backlog_room(line);
	/* The escape keys must work on a guest that takes no input. */
	if (!room && line->escape)
		room = CHUNK;
	line->paused = !room;
	pthread_mutex_unlock(line->lock);
	return room < CHUNK ? (size_t)room : CHUNK;
}

/* One read: true if there may be more. */
static bool read_once(struct serial_line *line)
{
	uint8_t bytes[CHUNK + 1];
	size_t room = input_room(line);
	ssize_t ret;

	if (!room)
		return false;
	ret = read(line->input.fd, bytes, room);
	if (ret > 0) {
		receive(line, bytes, (size_t)ret);
		return true;
	}
	if (ret < 0 && errno == EINTR)
		return true;
	if (ret < 0 && (errno == EAGAIN || (errno == EIO && in_background(line->input.fd))))
		return false;
	close_input(line);
	return false;
}

static void resume_input(struct serial_line *line)
{
	pthread_mutex_lock(line->lock);
	line->resume = true;
	pthread_mutex_unlock(line->lock);
	serial_line_flush(line);
}

/* Edge-triggered, so that a read the kernel refuses does not spin; a change of the watch reports
 * again what is still there. */
static void read_input(struct serial_line *line)
{
	if (line->input.fd < 0)
		return;
	if (!line->input_polled) {
		unsigned int reads = 0;

		while (reads < BUDGET && read_once(line))
			reads++;
		if (reads == BUDGET)
			resume_input(line);
	} else if (read_once(line)) {
		iothread_mod(line->thread, &line->input, EPOLLIN | EPOLLET);
	}
}

static void on_input(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	read_input(watch->opaque);
}

static void on_output(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	pump_output(watch->opaque);
}

static void on_timer(struct iothread_watch *watch, uint32_t events)
{
	(void)events;
	eventfd_drain(watch->fd);
	pump_output(watch->opaque);
}

static void on_kick(struct iothread_watch *watch, uint32_t events)
{
	struct serial_line *line = watch->opaque;
	bool resume;

	(void)events;
	eventfd_drain(watch->fd);
	pump_output(line);
	pthread_mutex_lock(line->lock);
	resume = line->resume;
	line->resume = false;
	pthread_mutex_unlock(line->lock);
	if (resume)
		read_input(line);
}

/* Finds out whether a descriptor is a socket, and whether a call on it may wait. */
static void look_at(int fd, bool *socket, bool *blocks)
{
	struct stat status;

	*blocks = !(fcntl(fd, F_GETFL) & O_NONBLOCK);
	*socket = !fstat(fd, &status) && S_ISSOCK(status.st_mode);
}

static int open_descriptors(struct serial_line *line, const struct serial_config *config)
{
	if (config->output_fd >= 0) {
		line->output.fd = terminal_dup(config->output_fd, O_WRONLY);
		if (line->output.fd < 0)
			return line->output.fd;
		look_at(line->output.fd, &line->output_socket, &line->output_blocks);
		line->open = true;
	}
	if (config->input_fd >= 0) {
		line->input.fd = terminal_dup(config->input_fd, O_RDONLY);
		if (line->input.fd < 0)
			return line->input.fd;
	}
	if (config->log_fd >= 0) {
		line->log_fd = terminal_dup(config->log_fd, O_WRONLY);
		if (line->log_fd < 0)
			return line->log_fd;
		look_at(line->log_fd, &line->log_socket, &line->log_blocks);
	}
	line->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	line->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return line->kick_fd < 0 || line->timer_fd < 0 ? -errno : 0;
}

static int watch_input(struct serial_line *line)
{
	int ret;

	line->input_polled = true; /* before the first event can come */
	ret = iothread_add(line->thread, &line->input, EPOLLIN | EPOLLET);
	if (ret != -EPERM)
		return ret;
	line->input_polled = false;
	line->resume = true;
	eventfd_signal(line->kick_fd);
	return 0;
}

static int start_thread(struct serial_line *line)
{
	int ret;

	line->thread = iothread_create("serial");
	if (!line->thread)
		return -errno;
	line->kick = (struct iothread_watch){line->kick_fd, on_kick, line};
	line->timer = (struct iothread_watch){line->timer_fd, on_timer, line};
	ret = iothread_add(line->thread, &line->kick, EPOLLIN);
	if (!ret)
		ret = iothread_add(line->thread, &line->timer, EPOLLIN);
	if (!ret && line->input.fd >= 0)
		ret = watch_input(line);
	return ret;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

int serial_line_stop(struct serial_line *line, uint32_t milliseconds)
{
	return line->thread ? iothread_stop(line->thread, milliseconds) : 0;
}

void serial_line_close(struct serial_line *line)
{
	iothread_destroy(line->thread);
	close_fd(line->output.fd);
	close_fd(line->input.fd);
	close_fd(line->log_fd);
	close_fd(line->kick_fd);
	close_fd(line->timer_fd);
}

int serial_line_open(struct serial_line *line, const struct serial_config *config,
                     pthread_mutex_t *lock, serial_line_changed *changed, void *opaque)
{
	int ret;

	line->lock = lock;
	line->changed = changed;
	line->opaque = opaque;
	line->kick_fd = line->timer_fd = line->log_fd = -1;
	line->failed_fd = config->failed_fd;
	line->output = (struct iothread_watch){-1, on_output, line};
	line->input = (struct iothread_watch){-1, on_input, line};
	line->escape = config->escape;
	if (config->output_fd < 0 && config->input_fd < 0)
		return 0;
	ret = open_descriptors(line, config);
	escape_filter_init(&line->filter, config->quit_fd, line->output.fd);
	if (!ret)
		ret = start_thread(line);
	if (ret)
		serial_line_close(line);
	return ret;
}
