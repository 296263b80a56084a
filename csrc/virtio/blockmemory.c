/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blockmemory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "host/guard.h"

enum { PAGE = 4096 };

/* A piece and its place on the disk may overlap. */
ssize_t blockmemory_read(const uint8_t *from, const struct iovec *to, uint32_t count)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (!guard_copy(to[i].iov_base, from + done, to[i].iov_len))
			return -EFAULT;
		done += to[i].iov_len;
	}
	return (ssize_t)done;
}

ssize_t blockmemory_write(uint8_t *to, const struct iovec *from, uint32_t count)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (!guard_copy(to + done, from[i].iov_base, from[i].iov_len))
			return -EFAULT;
		done += from[i].iov_len;
	}
	return (ssize_t)done;
}

/* Where the first page boundary at or after it is. */
static uint8_t *up(uint8_t *at)
{
	return at + -(uintptr_t)at % PAGE;
}

static uint8_t *down(uint8_t *at)
{
	return at - (uintptr_t)at % PAGE;
}

/* A huge page that goes only in part is split: the host can take the rest when it needs memory
 * (Documentation/mm/transhuge.rst, "Partial unmap and deferred_folio_split()"). */
static void give_back(uint8_t *start, uint8_t *end)
{
	/* Refused for memory that is locked. */
	if (start < end && madvise(start, (size_t)(end - start), MADV_DONTNEED))
		memset(start, 0, (size_t)(end - start));
}

void blockmemory_discard(uint8_t *start, uint64_t length)
{
	give_back(up(start), down(start + length));
}

void blockmemory_zero(uint8_t *start, uint64_t length, int unmap)
{
	uint8_t *end = start + length, *first = up(start), *last = down(end);

	if (!unmap || first >= last) {
		memset(start, 0, length);
		return;
	}
	memset(start, 0, (size_t)(first - start));
	give_back(first, last);
	memset(last, 0, (size_t)(end - last));
}
