/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MMIO transport, version 2 (virtio 1.2, section 4.2): a block of registers, and an eventfd per
 * queue that takes the place of the notification register wherever KVM can match it itself.
 */
#ifndef PYVMM_VIRTIO_MMIO_H
#define PYVMM_VIRTIO_MMIO_H

#include "bus.h"
#include "virtio.h"

/* cffi: begin */
enum {
	VIRTIO_MMIO_SIZE = 0x200, /* bytes: registers, and configuration space from 0x100 */
	VIRTIO_MMIO_NOTIFY = 0x50,
	VIRTIO_MMIO_VENDOR = 0x4d4d5650, /* "PVMM" */
};

/* A bus_handler; `opaque` is the struct virtio_device. */
int virtio_mmio_access(void *opaque, struct bus_access *access);
/* cffi: end */

#endif
