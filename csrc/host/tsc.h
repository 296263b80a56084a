/* SPDX-License-Identifier: Apache-2.0 */
/* How fast this machine's time stamp counter runs. */
#ifndef PYVMM_HOST_TSC_H
#define PYVMM_HOST_TSC_H

#include <stdint.h>

/* cffi: begin */
/*
 * Its rate in kHz against CLOCK_MONOTONIC, measured over `milliseconds`: within some 10 ppm after
 * 50, also on a busy machine.
 */
uint32_t tsc_khz(unsigned int milliseconds);
/* cffi: end */

#endif
