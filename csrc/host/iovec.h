/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scattered buffer that is used up from its ends: the readable or the writable half of a
 * descriptor chain. The pieces point into guest memory, so every copy out of it is made once and
 * only the copy is looked at.
 */
#ifndef PYVMM_HOST_IOVEC_H
#define PYVMM_HOST_IOVEC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct iovec_list {
	struct iovec *iov;
	uint32_t count;
	uint64_t bytes; /* sum of the lengths */
};

/* Each drops or copies at most what is there and returns how many bytes that was. A copy ends
 * before memory that is gone (host/guard.h). */
size_t iovec_skip(struct iovec_list *list, size_t bytes);                  /* drop from the front */
size_t iovec_cut(struct iovec_list *list, size_t bytes);                   /* drop from the end */
size_t iovec_take(struct iovec_list *list, void *buffer, size_t bytes);    /* copy out, then skip */
size_t iovec_put(struct iovec_list *list, const void *data, size_t bytes); /* copy in, then skip */

/* For a system call that is to move no more than so many bytes: how many pieces from the front that
 * takes, the last of which is shortened until iovec_unlimit(). */
struct iovec_limit {
	struct iovec *last;
	size_t cut; /* bytes */
	uint32_t count;
};

struct iovec_limit iovec_limit(const struct iovec_list *list, size_t bytes);
void iovec_unlimit(const struct iovec_limit *limit);

/* Where the byte at an offset is; NULL beyond the end. */
uint8_t *iovec_at(const struct iovec_list *list, size_t offset);

/* Where the last byte is; NULL in an empty list. */
uint8_t *iovec_last(const struct iovec_list *list);

#endif
