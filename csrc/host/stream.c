/* SPDX-License-Identifier: Apache-2.0 */
#include "host/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/terminal.h"

enum {
	CERTAIN = 4096, /* what a pipe that poll() calls writable takes for certain */
	/* At a time: O_NONBLOCK means nothing to a file, which may be on a slow disk. */
	PIECE = 256 << 10,
};

int stream_open(struct stream *stream, int fd, int access)
{
	struct stat status;

	*stream = (struct stream){.fd = -1};
	if (fd < 0)
		return 0;
	if (fstat(fd, &status))
		return -errno;
	stream->fd = terminal_dup(fd, access);
	if (stream->fd < 0)
		return stream->fd;
	stream->socket = S_ISSOCK(status.st_mode);
	stream->blocks = !stream->socket && !(fcntl(stream->fd, F_GETFL) & O_NONBLOCK);
	return 0;
}

void stream_close(struct stream *stream)
{
	if (stream->fd >= 0)
		close(stream->fd);
	stream->fd = -1;
}

bool stream_is_open(const struct stream *stream)
{
	return stream->fd >= 0;
}

static bool ready(const struct stream *stream, short events)
{
	struct pollfd poll_fd = {.fd = stream->fd, .events = events};

	return !stream->blocks || poll(&poll_fd, 1, 0) > 0;
}

static ssize_t outcome(ssize_t done)
{
	if (done >= 0)
		return done;
	return errno == EINTR ? -EAGAIN : -errno;
}

ssize_t stream_read(const struct stream *stream, void *buffer, size_t bytes)
{
	if (stream->socket)
		return outcome(recv(stream->fd, buffer, bytes, MSG_DONTWAIT));
	if (!ready(stream, POLLIN))
		return -EAGAIN;
	return outcome(read(stream->fd, buffer, bytes));
}

static ssize_t write_front(const struct stream *stream, const struct iovec *iov, uint32_t count)
{
	struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};

	if (stream->socket)
		return outcome(sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
	if (!ready(stream, POLLOUT))
		return -EAGAIN;
	return outcome(writev(stream->fd, iov, (int)count));
}

ssize_t stream_write(const struct stream *stream, const struct iovec_list *from)
{
	const struct iovec_limit limit = iovec_limit(from, stream->blocks ? CERTAIN : PIECE);
	ssize_t done = write_front(stream, from->iov, limit.count);

	iovec_unlimit(&limit);
	return done;
}
