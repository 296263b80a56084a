/* SPDX-License-Identifier: Apache-2.0 */
#include "blockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blockmemory.h"

int blockfile_init(struct blockfile *file, int fd, bool readonly)
{
	struct stat info;
	int block = 512;

	if (fstat(fd, &info))
		return -errno;
	if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
		return -ENOTBLK;
	if (S_ISBLK(info.st_mode) && ioctl(fd, BLKSSZGET, &block))
		return -errno;
	*file = (struct blockfile){
	        .fd = fd,
	        .readonly = readonly,
	        .device = S_ISBLK(info.st_mode),
	        .logical_block = (uint32_t)block,
	};
	return 0;
}

void blockfile_init_memory(struct blockfile *file, void *memory, bool readonly)
{
	*file = (struct blockfile){
	        .fd = -1,
	        .memory = memory,
	        .readonly = readonly,
	        .logical_block = 512,
	};
}

int blockfile_read(struct blockfile *file, struct iovec_list *to, uint64_t offset)
{
	if (file->memory) {
		blockmemory_read(file->memory + offset, to);
		return 0;
	}
	while (to->bytes) {
		ssize_t done = preadv(file->fd, to->iov, (int)to->count, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done)
			return -EIO; /* somebody cut the file off */
		iovec_skip(to, (size_t)done);
		offset += (uint64_t)done;
	}
	return 0;
}

int blockfile_write(struct blockfile *file, struct iovec_list *from, uint64_t offset, bool sync)
{
	if (file->memory) {
		blockmemory_write(file->memory + offset, from);
		return 0;
	}
	while (from->bytes) {
		ssize_t done = pwritev2(file->fd, from->iov, (int)from->count, (off_t)offset,
		                        sync ? RWF_DSYNC : 0);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done)
			return -EIO;
		iovec_skip(from, (size_t)done);
		offset += (uint64_t)done;
	}
	return 0;
}

int blockfile_flush(struct blockfile *file)
{
	return file->memory || file->readonly || !fdatasync(file->fd) ? 0 : -errno;
}

static int allocate(struct blockfile *file, int mode, uint64_t offset, uint64_t length)
{
	int ret;

	do {
		ret = fallocate(file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

int blockfile_discard(struct blockfile *file, uint64_t offset, uint64_t length)
{
	uint64_t range[2] = {offset, length};
	int ret;

	if (file->memory) {
		blockmemory_discard(file->memory + offset, length);
		return 0;
	}
	if (file->device)
		ret = ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
	else
		ret = allocate(file, FALLOC_FL_PUNCH_HOLE, offset, length);
	/* A discard is advice. */
	return ret == -EOPNOTSUPP || ret == -ENOSYS ? 0 : ret;
}

static int write_zeroes(struct blockfile *file, uint64_t offset, uint64_t length, bool sync)
{
	static uint8_t zeroes[64 << 10];
	enum { PIECES = 16 };

	while (length) {
		struct iovec pieces[PIECES];
		struct iovec_list list = {pieces, 0, 0};
		uint64_t bytes;
		int ret;

		while (list.count < PIECES && list.bytes < length) {
			uint64_t left = length - list.bytes;
			size_t size = left < sizeof(zeroes) ? left : sizeof(zeroes);

			pieces[list.count++] = (struct iovec){zeroes, size};
			list.bytes += size;
		}
		bytes = list.bytes;
		ret = blockfile_write(file, &list, offset, sync);
		if (ret)
			return ret;
		offset += bytes;
		length -= bytes;
	}
	return 0;
}

int blockfile_zero(struct blockfile *file, uint64_t offset, uint64_t length, bool unmap, bool sync)
{
	int ret = -EOPNOTSUPP;

	if (file->memory) {
		blockmemory_zero(file->memory + offset, length, unmap);
		return 0;
	}
	if (unmap)
		ret = allocate(file, FALLOC_FL_PUNCH_HOLE, offset, length);
	if (ret)
		ret = allocate(file, FALLOC_FL_ZERO_RANGE, offset, length);
	/* tmpfs (hence a memfd) and some file systems know no zero ranges; a device refuses what
	 * is not aligned to its blocks. */
	if (ret)
		return write_zeroes(file, offset, length, sync);
	return sync ? blockfile_flush(file) : 0;
}
