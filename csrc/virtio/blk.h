/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk (virtio 1.2, section 5.2) over a file descriptor (a raw image, a block device, a memfd) or
 * over memory.
 */
#ifndef PYVMM_VIRTIO_BLK_H
#define PYVMM_VIRTIO_BLK_H

#include "virtio/device.h"

/* cffi: begin */
enum {
	VIRTIO_BLK_SECTOR = 512, /* bytes; the unit of all addresses, whatever the disk */
	VIRTIO_BLK_SERIAL_SIZE = 20,
};

/* The descriptor stays the caller's and must outlive the device. `serial` is cut or NUL-padded to
 * 20 bytes. NULL and errno on failure. */
struct virtio_device *virtio_blk_create(const struct virtio_wiring *wiring, int fd,
                                        uint64_t sectors, int readonly, const char *serial);

/* Over private anonymous memory of this process, which must outlive the device. */
struct virtio_device *virtio_blk_create_memory(const struct virtio_wiring *wiring, void *disk,
                                               uint64_t sectors, int readonly, const char *serial);

/* Of a file whose blocks were set aside: a discard has them read as zeroes, and keeps them. Before
 * the guest runs. */
void virtio_blk_keep_blocks(struct virtio_device *device);

/* The disk's memory is put to another use, or is a disk again; any thread. While it is, requests
 * but for its serial number fail, and the driver is told that the disk has no sectors. */
void virtio_blk_close(void *device, int closed);

/* Shares the memory with another user: the I/O thread calls `enter` before each piece of a request,
 * fails the request where that returns 0, and calls `leave` after the piece. Before the guest runs.
 */
typedef int virtio_blk_enter(void *opaque);
typedef void virtio_blk_leave(void *opaque);
void virtio_blk_share(struct virtio_device *device, virtio_blk_enter *enter,
                      virtio_blk_leave *leave, void *opaque);

/* Called on the I/O thread after the range was changed and before the guest learns of it. */
typedef void virtio_blk_observer(void *opaque, uint64_t sector, uint64_t count);

/* Observers of writes (and write-zeroes), and of discards; either may be NULL. */
void virtio_blk_observe(struct virtio_device *device, virtio_blk_observer *on_write,
                        virtio_blk_observer *on_discard, void *opaque);
/* cffi: end */

#endif
