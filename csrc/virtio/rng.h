/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source of entropy (virtio 1.2, section 5.4): the host's own generator.
 */
#ifndef PYVMM_VIRTIO_RNG_H
#define PYVMM_VIRTIO_RNG_H

#include "virtio/device.h"

/* cffi: begin */
/* NULL and errno on failure. */
struct virtio_device *virtio_rng_create(const struct virtio_wiring *wiring);
/* cffi: end */

#endif
