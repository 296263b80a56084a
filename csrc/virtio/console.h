/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A console with one port (virtio 1.2, section 5.3) on two descriptors of the host.
 */
#ifndef PYVMM_VIRTIO_CONSOLE_H
#define PYVMM_VIRTIO_CONSOLE_H

#include "virtio/device.h"

/* cffi: begin */
struct virtio_console_plug {
	int input_fd;  /* -1: the guest reads nothing */
	int output_fd; /* -1: what the guest writes is dropped */
	int escape;    /* obey the escape keys in the input */
	int quit_fd;   /* eventfd for ctrl-a x, or -1 */
	int gate_fd;   /* eventfd that opens the input: until it is signalled none is read; or -1 */
	int failed_fd; /* eventfd, signalled when the output takes no more; or -1 */
	int framed;    /* frame the input, so that its end reaches the guest too */
};

/* The descriptors stay the caller's. The two of data may be closed afterwards, the eventfds outlive
 * the device. NULL and errno on failure. */
struct virtio_device *virtio_console_create(const struct virtio_wiring *wiring,
                                            const struct virtio_console_plug *plug);

/* The errno with which the output ended, or 0. Any thread. */
int virtio_console_output_error(const struct virtio_device *device);

/* The size of the terminal; the driver is told of a change. Any thread. */
void virtio_console_set_size(struct virtio_device *device, uint16_t columns, uint16_t rows);

/* Writes out what the guest has queued: 0, -ETIMEDOUT when the output does not take it within the
 * time, or -EFBIG when it is more than 16 MiB. For after the vCPUs stopped. */
int virtio_console_drain(struct virtio_device *device, uint32_t milliseconds);
/* cffi: end */

#endif
