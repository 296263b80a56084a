/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte stream with an end, carried over a console, which has none: DLE DLE is one DLE, DLE EOT
 * the end. The guest's init takes the frame off (guest-linux-patch/init, pyvmm.stdin=framed).
 */
#ifndef PYVMM_HOST_FRAMING_H
#define PYVMM_HOST_FRAMING_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
enum {
	FRAMING_DLE = 0x10,
	FRAMING_EOT = 0x04,
};

/* Doubles each DLE, in place; the buffer has room for twice the length. Returns the new length. */
size_t framing_escape(uint8_t *buffer, size_t length);
/* cffi: end */

#endif
