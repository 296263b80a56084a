/* SPDX-License-Identifier: Apache-2.0 */
#include "host/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "host/iothread.h"

enum { CTRL_A = 1 };

static const char help[] = "\r\n"
                           "ctrl-a x       end the virtual machine\r\n"
                           "ctrl-a ctrl-a  send ctrl-a to the guest\r\n"
                           "ctrl-a h       this help\r\n";

void escape_filter_init(struct escape_filter *filter, int quit_fd, int help_fd)
{
	*filter = (struct escape_filter){.quit_fd = quit_fd, .help_fd = help_fd};
}

/* A reader who takes no text now gets no help. The device's thread does not wait for one. */
static void print_help(const struct escape_filter *filter)
{
	struct pollfd ready = {.fd = filter->help_fd, .events = POLLOUT};
	ssize_t done;

	if (ready.fd < 0)
		return;
	done = send(ready.fd, help, sizeof(help) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done < 0 && errno == ENOTSOCK && poll(&ready, 1, 0) > 0)
		done = write(ready.fd, help, sizeof(help) - 1);
	(void)done;
}

/* Serves the key after ctrl-a; false if it is not ours. */
static bool escape_key(const struct escape_filter *filter, uint8_t key)
{
	switch (key) {
	case 'x':
		if (filter->quit_fd < 0)
			return false;
		eventfd_signal(filter->quit_fd);
		return true;
	case 'h':
	case '?':
		print_help(filter);
		return true;
	default:
		return false;
	}
}

size_t escape_filter(struct escape_filter *filter, uint8_t *buffer, size_t length)
{
	size_t kept = 0;
	bool pending = false;

	if (!length)
		return 0;
	if (filter->pending) {
		/* As if the withheld ctrl-a had come in this read: output never overtakes input. */
		memmove(buffer + 1, buffer, length++);
		buffer[0] = CTRL_A;
	}
	for (size_t i = 0; i < length; i++) {
		uint8_t key = buffer[i];

		if (!pending && key == CTRL_A) {
			pending = true;
			continue;
		}
		if (pending && !escape_key(filter, key)) {
			buffer[kept++] = CTRL_A;
			if (key != CTRL_A)
				buffer[kept++] = key;
		} else if (!pending) {
			buffer[kept++] = key;
		}
		pending = false;
	}
	filter->pending = pending;
	return kept;
}

/* Opening a pty master's device again would make a new pty. */
static bool can_reopen(int fd, const struct stat *status)
{
	if (S_ISFIFO(status->st_mode))
		return true;
	return S_ISCHR(status->st_mode) && status->st_rdev != makedev(5, 2) && isatty(fd);
}

int terminal_dup(int fd, int access)
{
	struct stat status;
	char path[32];
	int own = -1;

	if (fstat(fd, &status))
		return -errno;
	if (can_reopen(fd, &status)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	if (own < 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return own < 0 ? -errno : own;
}
