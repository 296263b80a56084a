/* SPDX-License-Identifier: Apache-2.0 */
#define FUZZ_HOST_ITSELF
#include "host.h"

#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "host/guard.h"
#include "host/iothread.h"

enum {
	FIRST_FD = 1000, /* no number of the process's own */
	FILES = 24,
	OUTCOMES = 64,
	RACES = 8,
	RACE_BYTES = 16,
};

struct file {
	enum host_kind kind;
	int same; /* the row that this one is a duplicate of */
	uint64_t count, edges;
	bool ended;
	size_t room;
	/* What waits: bytes of a stream, or one frame. */
	uint8_t line[HOST_LINE_BYTES];
	size_t length;
};

struct race {
	uint32_t moment;
	uint8_t *where;
	size_t length;
	uint8_t bytes[RACE_BYTES];
};

static struct file files[FILES];
static int file_count;
static uint8_t disk[HOST_DISK_BYTES];
static uint8_t outcomes[OUTCOMES];
static size_t outcome_next, outcome_count;
static struct race races[RACES];
static uint32_t race_count;
static uint8_t losses; /* copies until memory is gone for one; 0 for none */
static int64_t now_ns;
static uint8_t noise;

static struct file *file_of(int fd)
{
	if (fd < FIRST_FD || fd >= FIRST_FD + file_count)
		return NULL;
	return &files[files[fd - FIRST_FD].same];
}

void host_reset(void)
{
	for (int i = 0; i < file_count; i++) {
		struct file *file = &files[i];

		file->kind = HOST_NONE;
		file->count = file->edges = 0;
		file->ended = false;
		file->room = file->length = 0;
	}
	file_count = 0;
	outcome_next = outcome_count = 0;
	race_count = 0;
	losses = 0;
	now_ns = 0;
	noise = 0;
}

int host_make(enum host_kind kind)
{
	if (file_count == FILES) {
		errno = EMFILE;
		return -1;
	}
	files[file_count].kind = kind;
	files[file_count].same = file_count;
	files[file_count].room = SIZE_MAX;
	return FIRST_FD + file_count++;
}

static int duplicate(int fd)
{
	const struct file *file = file_of(fd);
	int row = file_count;

	if (!file || host_make(HOST_NONE) < 0)
		return -1;
	files[row].same = (int)(file - files);
	return FIRST_FD + row;
}

void host_send(int fd, const void *bytes, size_t length)
{
	struct file *file = file_of(fd);
	size_t room = HOST_LINE_BYTES - file->length;

	if (file->ended)
		return;
	if (length > room)
		length = room;
	memcpy(file->line + file->length, bytes, length);
	file->length += length;
	file->edges++;
}

void host_end(int fd)
{
	file_of(fd)->ended = true;
	file_of(fd)->edges++;
}

void host_set_room(int fd, size_t bytes)
{
	file_of(fd)->room = bytes;
	file_of(fd)->edges++;
}

void host_outcomes(const uint8_t *bytes, size_t count)
{
	outcome_next = 0;
	outcome_count = count < OUTCOMES ? count : OUTCOMES;
	memcpy(outcomes, bytes, outcome_count);
}

void host_race(uint32_t moment, uint8_t *where, const uint8_t *bytes, size_t length)
{
	struct race *race = &races[race_count % RACES];

	*race = (struct race){.moment = moment, .where = where};
	race->length = length < RACE_BYTES ? length : RACE_BYTES;
	memcpy(race->bytes, bytes, race->length);
	race_count++;
}

void host_moment(void)
{
	for (uint32_t i = 0; i < RACES && i < race_count; i++) {
		struct race *race = &races[i];

		if (race->length && !race->moment--) {
			memcpy(race->where, race->bytes, race->length);
			race->length = 0;
		}
	}
}

void host_lose(uint8_t moment)
{
	losses = moment;
}

/* host/guard.h: the copy itself is one that the sanitizers look at. */
bool guard_copy(void *to, const void *from, size_t bytes)
{
	host_moment();
	if (bytes && losses && !--losses) {
		memmove(to, from, bytes / 2);
		return false;
	}
	if (bytes)
		memmove(to, from, bytes);
	return true;
}

bool guard_clear(void *to, size_t bytes)
{
	host_moment();
	if (losses && !--losses)
		return false;
	memset(to, 0, bytes);
	return true;
}

/* The next outcome: 0 is success, an errno an error, and -n at most n bytes. */
static int next_outcome(void)
{
	static const int errors[] = {EAGAIN, EIO, ENOSPC, EBADFD, EINTR, EOPNOTSUPP, EPIPE, EINVAL};
	uint8_t byte;

	host_moment();
	if (outcome_next == outcome_count)
		return 0;
	byte = outcomes[outcome_next++];
	if (byte < 8)
		return byte ? errors[byte] : 0;
	return byte & 1 ? -(byte >> 1) : 0;
}

/* The bytes of a call that may be cut short, or -1 and errno. */
static ssize_t allowed(size_t bytes)
{
	int outcome = next_outcome();

	if (outcome > 0) {
		errno = outcome;
		return -1;
	}
	if (outcome < 0 && bytes > (size_t)-outcome)
		return -outcome;
	return (ssize_t)bytes;
}

uint32_t host_ready(int fd)
{
	const struct file *file = file_of(fd);
	uint32_t events = 0;

	if (!file)
		return 0;
	if (file->kind == HOST_EVENT)
		return file->count ? EPOLLIN : 0;
	if (file->length || (file->ended && file->kind != HOST_TAP))
		events |= EPOLLIN;
	if (file->ended)
		events |= file->kind == HOST_TAP ? EPOLLERR : EPOLLHUP;
	if (file->room)
		events |= EPOLLOUT;
	return events;
}

uint64_t host_edges(int fd)
{
	const struct file *file = file_of(fd);

	return file ? file->edges : 0;
}

void eventfd_signal(int fd)
{
	struct file *file = file_of(fd);

	if (!file)
		return;
	file->count++;
	file->edges++;
}

void eventfd_drain(int fd)
{
	struct file *file = file_of(fd);

	if (file)
		file->count = 0;
}

/* Streams, frames and the disk. */

ssize_t host_read(int fd, void *to, size_t bytes)
{
	struct file *file = file_of(fd);
	ssize_t some;
	size_t taken;

	if (!file) {
		errno = EBADF;
		return -1;
	}
	if (!file->length && !file->ended) {
		host_moment();
		errno = EAGAIN;
		return -1;
	}
	some = allowed(bytes < file->length ? bytes : file->length);
	if (some <= 0)
		return some;
	memcpy(to, file->line, (size_t)some);
	/* What of a frame was not read is lost. */
	taken = file->kind == HOST_TAP ? file->length : (size_t)some;
	file->length -= taken;
	memmove(file->line, file->line + taken, file->length);
	return some;
}

/* Looks at every byte, as the kernel would. */
static void look_at(const struct iovec *iov, int count)
{
	for (int i = 0; i < count; i++)
		for (size_t at = 0; at < iov[i].iov_len; at += 64)
			noise ^= ((const volatile uint8_t *)iov[i].iov_base)[at];
	for (int i = 0; i < count; i++)
		if (iov[i].iov_len)
			noise ^= ((const volatile uint8_t *)iov[i].iov_base)[iov[i].iov_len - 1];
}

static size_t total(const struct iovec *iov, int count)
{
	size_t bytes = 0;

	for (int i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

ssize_t host_writev(int fd, const struct iovec *iov, int count)
{
	struct file *file = file_of(fd);
	size_t bytes;
	ssize_t some;

	if (!file || count < 0 || count > 1024) {
		errno = EINVAL;
		return -1;
	}
	if (!file->room) {
		host_moment();
		errno = EAGAIN;
		return -1;
	}
	look_at(iov, count);
	bytes = total(iov, count);
	some = allowed(bytes < file->room ? bytes : file->room);
	if (some > 0)
		file->room -= (size_t)some;
	/* A tap takes a frame or refuses it. */
	return some >= 0 && file->kind == HOST_TAP ? (ssize_t)bytes : some;
}

ssize_t host_write(int fd, const void *from, size_t bytes)
{
	struct iovec one = {(void *)from, bytes};

	return host_writev(fd, &one, 1);
}

ssize_t host_recv(int fd, void *to, size_t bytes, int flags)
{
	(void)flags;
	return host_read(fd, to, bytes);
}

ssize_t host_send_flags(int fd, const void *from, size_t bytes, int flags)
{
	(void)flags;
	return host_write(fd, from, bytes);
}

ssize_t host_sendmsg(int fd, const struct msghdr *message, int flags)
{
	(void)flags;
	return host_writev(fd, message->msg_iov, (int)message->msg_iovlen);
}

ssize_t host_readv(int fd, const struct iovec *iov, int count)
{
	return count ? host_read(fd, iov->iov_base, iov->iov_len) : 0;
}

/* Bytes from an offset on that a call moves: not beyond the end, which the disk has. */
static ssize_t on_disk(const struct iovec *iov, int count, off_t offset)
{
	size_t bytes;

	if (count < 0 || count > 1024 || offset < 0) {
		errno = EINVAL;
		return -1;
	}
	bytes = total(iov, count);
	if ((uint64_t)offset >= HOST_DISK_BYTES)
		bytes = 0;
	else if (bytes > HOST_DISK_BYTES - (size_t)offset)
		bytes = HOST_DISK_BYTES - (size_t)offset;
	return allowed(bytes);
}

ssize_t host_preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
	ssize_t some = on_disk(iov, count, offset), done = 0;

	(void)fd;
	while (done < some) {
		size_t piece =
		        (size_t)(some - done) < iov->iov_len ? (size_t)(some - done) : iov->iov_len;

		memcpy(iov->iov_base, disk + offset + done, piece);
		done += (ssize_t)piece;
		iov++;
	}
	return some;
}

ssize_t host_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	ssize_t some = on_disk(iov, count, offset), done = 0;

	(void)fd;
	(void)flags;
	while (done < some) {
		size_t piece =
		        (size_t)(some - done) < iov->iov_len ? (size_t)(some - done) : iov->iov_len;

		memcpy(disk + offset + done, iov->iov_base, piece);
		done += (ssize_t)piece;
		iov++;
	}
	return some;
}

static int refuse(void)
{
	int outcome = next_outcome();

	if (outcome <= 0)
		return 0;
	errno = outcome;
	return -1;
}

int host_fallocate(int fd, int mode, off_t offset, off_t length)
{
	(void)fd;
	(void)mode;
	/* The device checked the range. */
	if (offset < 0 || length <= 0 || offset + length > HOST_DISK_BYTES)
		abort();
	return refuse();
}

int host_fdatasync(int fd)
{
	(void)fd;
	return refuse();
}

/* About descriptors. */

int host_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	int ready = 0;

	host_moment();
	now_ns += (int64_t)(timeout > 0 ? timeout : 0) * 1000000;
	for (nfds_t i = 0; i < count; i++) {
		uint32_t events = host_ready(fds[i].fd);

		fds[i].revents = 0;
		if (events & EPOLLIN)
			fds[i].revents |= POLLIN;
		if (events & EPOLLOUT)
			fds[i].revents |= POLLOUT;
		fds[i].revents &= fds[i].events;
		ready += fds[i].revents != 0;
	}
	return ready;
}

int host_fstat(int fd, struct stat *status)
{
	const struct file *file = file_of(fd);

	if (!file) {
		errno = EBADF;
		return -1;
	}
	memset(status, 0, sizeof(*status));
	switch (file->kind) {
	case HOST_PIPE:
		status->st_mode = S_IFIFO;
		break;
	case HOST_SOCKET:
		status->st_mode = S_IFSOCK;
		break;
	case HOST_TAP:
		status->st_mode = S_IFCHR;
		break;
	default:
		status->st_mode = S_IFREG;
		break;
	}
	return 0;
}

int host_fcntl(int fd, int command, ...)
{
	const struct file *file = file_of(fd);

	if (command == F_DUPFD_CLOEXEC)
		return duplicate(fd);
	/* A file is never told not to block. */
	return command == F_GETFL && file && file->kind != HOST_FILE ? O_NONBLOCK : 0;
}

int host_open(const char *path, int flags, ...)
{
	const char *number = strrchr(path, '/');

	(void)flags;
	return duplicate(number ? atoi(number + 1) : -1);
}

int host_close(int fd)
{
	(void)fd;
	return 0;
}

int host_isatty(int fd)
{
	(void)fd;
	return 0;
}

int host_eventfd(unsigned int count, int flags)
{
	int fd = host_make(HOST_EVENT);

	(void)flags;
	if (fd >= 0)
		file_of(fd)->count = count;
	return fd;
}

int host_timerfd_create(int clock, int flags)
{
	(void)clock;
	(void)flags;
	return host_make(HOST_EVENT);
}

/* All timers ring at once. */
int host_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	(void)flags;
	(void)old;
	if (new->it_value.tv_sec || new->it_value.tv_nsec)
		eventfd_signal(fd);
	return 0;
}

int host_ioctl(int fd, unsigned long request, ...)
{
	struct ifreq *interface;
	va_list rest;

	(void)fd;
	va_start(rest, request);
	interface = va_arg(rest, struct ifreq *);
	va_end(rest);
	switch (request) {
	case TUNGETIFF:
		interface->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
		return 0;
	case TUNSETOFFLOAD:
	case TUNSETVNETHDRSZ:
		return 0;
	default:
		return refuse();
	}
}

int host_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	now_ns += 1000000;
	now->tv_sec = now_ns / 1000000000;
	now->tv_nsec = now_ns % 1000000000;
	return 0;
}

ssize_t host_getrandom(void *to, size_t bytes, unsigned int flags)
{
	ssize_t some = allowed(bytes);

	(void)flags;
	if (some > 0)
		memset(to, ++noise, (size_t)some);
	return some;
}

pid_t host_tcgetpgrp(int fd)
{
	(void)fd;
	return -1;
}
