/* SPDX-License-Identifier: Apache-2.0 */
#include "host_parts.h"

#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "host/iothread.h"

enum {
	FIRST_FD = 1000, /* no number of the process's own */
	FILES = 24,
};

static struct file files[FILES];
static int file_count;
static int64_t now_ns;

struct file *file_of(int fd)
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
	now_ns = 0;
	forget_moments();
	forget_noise();
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

pid_t host_tcgetpgrp(int fd)
{
	(void)fd;
	return -1;
}
