/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A descriptor of the host that carries a stream of bytes (terminal, pipe, socket, file), used
 * without ever blocking the thread and without changing it for others who share it.
 */
#ifndef PYVMM_HOST_STREAM_H
#define PYVMM_HOST_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "host/iovec.h"

struct stream {
	int fd; /* our own; -1 is none */
	bool socket;
	bool blocks; /* O_NONBLOCK could not be had: ask poll() before each call */
};

/* `access` is O_RDONLY or O_WRONLY; a negative fd gives an empty stream. 0 or -errno. */
int stream_open(struct stream *stream, int fd, int access);
void stream_close(struct stream *stream);
bool stream_is_open(const struct stream *stream);

/* Bytes moved, 0 for the end of the input, -EAGAIN for not now, or another -errno for never again.
 * The write takes as much of the list as goes at once, without consuming it. */
ssize_t stream_read(const struct stream *stream, void *buffer, size_t bytes);
ssize_t stream_write(const struct stream *stream, const struct iovec_list *from);

#endif
