/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same as virtio/blockfile.h for a disk that is memory of this process: private and anonymous,
 * so that the host gives it huge pages. Ranges are checked by the caller.
 */
#ifndef PYVMM_VIRTIO_BLOCKMEMORY_H
#define PYVMM_VIRTIO_BLOCKMEMORY_H

#include <stdint.h>
#include <sys/types.h>

#include "host/iovec.h"

/* As preadv(2) and pwritev(2): bytes moved, or -EFAULT where memory is gone (host/guard.h). The
 * pieces may lie in the disk itself: a guest that sees it as memory may name it. */
ssize_t blockmemory_read(const uint8_t *from, const struct iovec *to, uint32_t count);
ssize_t blockmemory_write(uint8_t *to, const struct iovec *from, uint32_t count);

/* Gives whole pages back to the host; they read as zeroes afterwards. What else there is of the
 * first and last one stays as it is. */
void blockmemory_discard(uint8_t *start, uint64_t length);

/* Makes all of it read as zeroes, with as much given back if `unmap`. */
void blockmemory_zero(uint8_t *start, uint64_t length, int unmap);

#endif
