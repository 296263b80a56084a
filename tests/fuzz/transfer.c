/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes to and from the host: streams, frames and the disk. */
#include "host_parts.h"

#include <stdlib.h>
#include <string.h>

static uint8_t disk[HOST_DISK_BYTES];
static uint8_t noise;

void forget_noise(void)
{
	noise = 0;
}

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

ssize_t host_getrandom(void *to, size_t bytes, unsigned int flags)
{
	ssize_t some = allowed(bytes);

	(void)flags;
	if (some > 0)
		memset(to, ++noise, (size_t)some);
	return some;
}
