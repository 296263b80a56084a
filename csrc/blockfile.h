/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a disk: reads, writes and clears ranges of a file, a block device or memory.
 * Nothing here knows of guests; ranges are checked by the caller.
 */
#ifndef PYVMM_BLOCKFILE_H
#define PYVMM_BLOCKFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "iovec.h"

struct blockfile {
	int fd;          /* not owned; -1 for memory */
	uint8_t *memory; /* not owned; NULL for a descriptor */
	bool readonly;
	bool device;            /* a block device, not a file */
	uint32_t logical_block; /* bytes; discards of a device have to be aligned to it */
};

/* 0 or -errno: -ENOTBLK for what is neither a regular file nor a block device. */
int blockfile_init(struct blockfile *file, int fd, bool readonly);

/* Over memory (blockmemory.h): a write is as stable as it gets, and nothing fails. */
void blockfile_init_memory(struct blockfile *file, void *memory, bool readonly);

/* Fill or write out the whole list, consuming it: 0 or -errno. An end of file in the middle is
 * -EIO. `sync` returns only when the data is on stable storage. */
int blockfile_read(struct blockfile *file, struct iovec_list *to, uint64_t offset);
int blockfile_write(struct blockfile *file, struct iovec_list *from, uint64_t offset, bool sync);
int blockfile_flush(struct blockfile *file);

/* Gives the range back to the host where that is possible; its content is undefined afterwards. */
int blockfile_discard(struct blockfile *file, uint64_t offset, uint64_t length);

/* Makes the range read as zeroes, by deallocating it if `unmap`, without if not. */
int blockfile_zero(struct blockfile *file, uint64_t offset, uint64_t length, bool unmap, bool sync);

#endif
