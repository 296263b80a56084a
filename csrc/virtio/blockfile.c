/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "virtio/blockmemory.h"

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

/* The result of a system call: an end of file in the middle is an error, as somebody cut the file
 * off. */
static ssize_t outcome(ssize_t done)
{
	if (done < 0)
		return -errno;
	return done ? done : -EIO;
}

ssize_t blockfile_read(struct blockfile *file, struct iovec_list *to, uint64_t offset)
{
	const struct iovec_limit limit = iovec_limit(to, BLOCKFILE_PIECE);
	ssize_t done;

	if (file->memory) {
		done = blockmemory_read(file->memory + offset, to->iov, limit.count);
	} else {
		do {
			done = preadv(file->fd, to->iov, (int)limit.count, (off_t)offset);
		} while (done < 0 && errno == EINTR);
		done = outcome(done);
	}
	iovec_unlimit(&limit);
	if (done > 0)
		iovec_skip(to, (size_t)done);
	return done;
}

ssize_t blockfile_write(struct blockfile *file, struct iovec_list *from, uint64_t offset, bool sync)
{
	const struct iovec_limit limit = iovec_limit(from, BLOCKFILE_PIECE);
	ssize_t done;

	if (file->memory) {
		done = blockmemory_write(file->memory + offset, from->iov, limit.count);
	} else {
		do {
			done = pwritev2(file->fd, from->iov, (int)limit.count, (off_t)offset,
			                sync ? RWF_DSYNC : 0);
		} while (done < 0 && errno == EINTR);
		done = outcome(done);
	}
	iovec_unlimit(&limit);
	if (done > 0)
		iovec_skip(from, (size_t)done);
	return done;
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

/* As much of a range as one call does; the next one is aligned. */
static uint64_t piece_of(uint64_t offset, uint64_t length, uint64_t piece)
{
	uint64_t left = piece - offset % piece;

	return length < left ? length : left;
}

ssize_t blockfile_discard(struct blockfile *file, uint64_t offset, uint64_t length)
{
	uint64_t piece = piece_of(offset, length, BLOCKFILE_CLEAR_PIECE);
	uint64_t range[2] = {offset, piece};
	int ret = 0;

	if (file->memory)
		blockmemory_discard(file->memory + offset, piece);
	else if (file->device)
		ret = ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
	else if (!file->keep || allocate(file, FALLOC_FL_ZERO_RANGE, offset, piece))
		ret = allocate(file, FALLOC_FL_PUNCH_HOLE, offset, piece);
	/* A discard is advice. */
	return ret && ret != -EOPNOTSUPP && ret != -ENOSYS ? ret : (ssize_t)piece;
}

static ssize_t write_zeroes(struct blockfile *file, uint64_t offset, uint64_t length)
{
	static uint8_t zeroes[64 << 10];
	enum { PIECES = BLOCKFILE_PIECE / sizeof(zeroes) };
	struct iovec pieces[PIECES];
	struct iovec_list list = {pieces, 0, 0};

	while (list.bytes < length) {
		uint64_t left = length - list.bytes;
		size_t size = left < sizeof(zeroes) ? left : sizeof(zeroes);

		pieces[list.count++] = (struct iovec){zeroes, size};
		list.bytes += size;
	}
	return blockfile_write(file, &list, offset, false);
}

ssize_t blockfile_zero(struct blockfile *file, uint64_t offset, uint64_t length, bool unmap)
{
	uint64_t piece = piece_of(offset, length, BLOCKFILE_PIECE);
	int ret = -EOPNOTSUPP;

	if (file->memory) {
		blockmemory_zero(file->memory + offset, piece, unmap);
		return (ssize_t)piece;
	}
	if (unmap)
		ret = allocate(file, FALLOC_FL_PUNCH_HOLE, offset, piece);
	if (ret)
		ret = allocate(file, FALLOC_FL_ZERO_RANGE, offset, piece);
	/* tmpfs (hence a memfd) and some file systems know no zero ranges; a device refuses what
	 * is not aligned to its blocks. */
	return ret ? write_zeroes(file, offset, piece) : (ssize_t)piece;
}
