/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages the host has given of a range of private anonymous memory: mincore(2), and
 * /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst) for what that does not say.
 */
#ifndef PYVMM_HOST_PAGEMAP_H
#define PYVMM_HOST_PAGEMAP_H

#include <stdint.h>

/* cffi: begin */
/* Bytes of a range of this process's memory, whole pages, that are the process's own in the host's
 * memory now. */
uint64_t pagemap_count(void *memory, uint64_t size);
/* cffi: end */

struct pagemap {
	uint8_t *memory;
	uint64_t size;
	int fd; /* -1 where there is no /proc */
};

/* Whole pages of this process, which it keeps mapped until the close. */
void pagemap_open(struct pagemap *map, void *memory, uint64_t size);
void pagemap_close(struct pagemap *map);

/* True if there is something at the offset, in memory or on the host's own swap. One system call.
 */
int pagemap_has(const struct pagemap *map, uint64_t offset);

enum { PAGEMAP_CHUNK = 64 << 20 };

/* Bytes in the host's memory now of a chunk, which is one by its number. What was only read is the
 * host's page of zeros, and costs nothing. One system call, one or two more for each 2 MiB with
 * something in it. */
uint64_t pagemap_chunk(const struct pagemap *map, uint64_t chunk);

/* The same of all chunks. */
uint64_t pagemap_bytes(const struct pagemap *map);

#endif
