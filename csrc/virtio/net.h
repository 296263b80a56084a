/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network card (virtio 1.2, section 5.1) on a tap of the host. Checksum and segmentation offloads
 * pass through: tap and virtio share the header that describes them.
 */
#ifndef PYVMM_VIRTIO_NET_H
#define PYVMM_VIRTIO_NET_H

#include "virtio/device.h"

/* cffi: begin */
/* `tap_fd` is a tap attached with IFF_VNET_HDR; it stays the caller's, is made non-blocking, and
 * must outlive the device. `mac` has 6 bytes; an `mtu` of 0 is not announced. NULL and errno on
 * failure. */
struct virtio_device *virtio_net_create(const struct virtio_wiring *wiring, int tap_fd,
                                        const uint8_t *mac, uint16_t mtu);
/* cffi: end */

#endif
