/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MMIO transport, version 2 (virtio 1.2, section 4.2): a block of registers, and an eventfd per
 * queue that takes the place of the notification register wherever KVM can match it itself.
 */
#ifndef PYVMM_VIRTIO_MMIO_H
#define PYVMM_VIRTIO_MMIO_H

#include "machine/bus.h"
#include "virtio/device.h"

/* cffi: begin */
enum {
	VIRTIO_MMIO_SIZE = 0x200,  /* bytes: registers, and configuration space from 0x100 */
	VIRTIO_MMIO_PAGE = 0x1000, /* what is mapped for the guest to read */
	VIRTIO_MMIO_NOTIFY = 0x50,
	VIRTIO_MMIO_ACK = 0x64,
	VIRTIO_MMIO_VENDOR = 0x4d4d5650, /* "PVMM" */
};

/* A bus_handler; `opaque` is the struct virtio_device. */
int virtio_mmio_access(void *opaque, struct bus_access *access);

/* For the wiring of a device (struct virtio_wiring). */
const struct virtio_transport *virtio_mmio_transport(void);

/* The page with everything a driver reads, current at any time: fit to be mapped into the guest,
 * read-only, at the address of the registers. Lives as long as the device. */
void *virtio_mmio_page(struct virtio_device *device);
/* cffi: end */

#endif
