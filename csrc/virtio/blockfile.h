/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a disk: reads, writes and clears ranges of a file, a block device or memory.
 * Nothing here knows of guests; ranges are checked by the caller.
 *
 * Each call does a piece at most, so that its caller can look up in between: a system call on a
 * slow disk cannot be interrupted.
 */
#ifndef PYVMM_VIRTIO_BLOCKFILE_H
#define PYVMM_VIRTIO_BLOCKFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "host/iovec.h"

enum {
	BLOCKFILE_PIECE = 2 << 20,        /* bytes read, written or made zero at a time */
	BLOCKFILE_CLEAR_PIECE = 64 << 20, /* discarded */
};

struct blockfile {
	int fd;          /* not owned; -1 for memory */
	uint8_t *memory; /* not owned; NULL for a descriptor */
	bool readonly;
	bool device; /* a block device, not a file */
	bool keep;   /* a discard leaves the file its blocks; what is there reads as zeroes */
	uint32_t logical_block; /* bytes; discards of a device have to be aligned to it */
};

/* 0 or -errno: -ENOTBLK for what is neither a regular file nor a block device. */
int blockfile_init(struct blockfile *file, int fd, bool readonly);

/* Over memory (virtio/blockmemory.h): a write is as stable as it gets, and nothing fails. */
void blockfile_init_memory(struct blockfile *file, void *memory, bool readonly);

/* Fill or write out the front of a list, consuming it: bytes, or -errno. An end of file there is
 * -EIO. `sync` returns only when the data is on stable storage. */
ssize_t blockfile_read(struct blockfile *file, struct iovec_list *to, uint64_t offset);
ssize_t blockfile_write(struct blockfile *file, struct iovec_list *from, uint64_t offset,
                        bool sync);
int blockfile_flush(struct blockfile *file);

/* Gives the front of a range back to the host where that is possible; its content is undefined
 * afterwards. Bytes, or -errno. Whole pieces end where the next one begins to be aligned. */
ssize_t blockfile_discard(struct blockfile *file, uint64_t offset, uint64_t length);

/* Makes the front of a range read as zeroes, by deallocating it if `unmap`, without if not. Bytes,
 * or -errno; a flush makes it stable. */
ssize_t blockfile_zero(struct blockfile *file, uint64_t offset, uint64_t length, bool unmap);

#endif
