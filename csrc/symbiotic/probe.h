/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port for measurements: each write to it makes a TEST symcall, in C, out of an ordinary exit
 * and from any privilege level. The doorbell's echo is the same at CPL 0, without the settling
 * that an ordinary port needs.
 */
#ifndef PYVMM_SYMBIOTIC_PROBE_H
#define PYVMM_SYMBIOTIC_PROBE_H

#include <stdint.h>

#include "machine/bus.h"

/* cffi: begin */
/* 0 or the error of bus_add(). */
int probe_attach(struct bus *pio, uint64_t port);
/* cffi: end */

#endif
