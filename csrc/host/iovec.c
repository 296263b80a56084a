/* SPDX-License-Identifier: Apache-2.0 */
#include "host/iovec.h"

#include "host/guard.h"

size_t iovec_skip(struct iovec_list *list, size_t bytes)
{
	size_t left = bytes < list->bytes ? bytes : list->bytes;
	size_t done = left;

	list->bytes -= left;
	while (list->count && left >= list->iov->iov_len) {
		left -= list->iov->iov_len;
		list->iov++;
		list->count--;
	}
	if (left) {
		list->iov->iov_base = (uint8_t *)list->iov->iov_base + left;
		list->iov->iov_len -= left;
	}
	return done;
}

size_t iovec_cut(struct iovec_list *list, size_t bytes)
{
	size_t left = bytes < list->bytes ? bytes : list->bytes;
	size_t done = left;

	list->bytes -= left;
	while (list->count && left >= list->iov[list->count - 1].iov_len)
		left -= list->iov[--list->count].iov_len;
	if (left)
		list->iov[list->count - 1].iov_len -= left;
	return done;
}

/* Length of the front piece, at most `bytes`. */
static size_t front(const struct iovec_list *list, size_t bytes)
{
	return bytes < list->iov->iov_len ? bytes : list->iov->iov_len;
}

size_t iovec_take(struct iovec_list *list, void *buffer, size_t bytes)
{
	size_t done = 0;

	while (list->count && done < bytes) {
		size_t piece = front(list, bytes - done);

		if (!guard_copy((uint8_t *)buffer + done, list->iov->iov_base, piece))
			break;
		done += iovec_skip(list, piece);
	}
	/* The guest may change the original at any time: keep the compiler from looking again. */
	__asm__ volatile("" : : "r"(buffer) : "memory");
	return done;
}

size_t iovec_put(struct iovec_list *list, const void *data, size_t bytes)
{
	size_t done = 0;

	while (list->count && done < bytes) {
		size_t piece = front(list, bytes - done);

		if (!guard_copy(list->iov->iov_base, (const uint8_t *)data + done, piece))
			break;
		done += iovec_skip(list, piece);
	}
	return done;
}

struct iovec_limit iovec_limit(const struct iovec_list *list, size_t bytes)
{
	struct iovec_limit limit = {NULL, 0, 0};

	while (limit.count < list->count && bytes) {
		limit.last = &list->iov[limit.count++];
		if (limit.last->iov_len > bytes)
			limit.cut = limit.last->iov_len - bytes;
		bytes -= limit.last->iov_len - limit.cut;
	}
	if (limit.cut)
		limit.last->iov_len -= limit.cut;
	return limit;
}

void iovec_unlimit(const struct iovec_limit *limit)
{
	if (limit->cut)
		limit->last->iov_len += limit->cut;
}

uint8_t *iovec_at(const struct iovec_list *list, size_t offset)
{
	for (uint32_t i = 0; i < list->count; i++) {
		const struct iovec *piece = &list->iov[i];

		if (offset < piece->iov_len)
			return (uint8_t *)piece->iov_base + offset;
		offset -= piece->iov_len;
	}
	return NULL;
}

uint8_t *iovec_last(const struct iovec_list *list)
{
	return list->bytes ? iovec_at(list, list->bytes - 1) : NULL;
}
