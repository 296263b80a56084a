/* SPDX-License-Identifier: Apache-2.0 */
/* Where in this process the next memory lies: for a child that was forked, whose parent's other
 * children have the same. */
#ifndef PYVMM_HOST_LAYOUT_H
#define PYVMM_HOST_LAYOUT_H

#include <stddef.h>

/* cffi: begin */
/*
 * Puts so many bytes between what is there and what comes: between the heap and more of it, and
 * below the last mapping; holes between the mappings that are there are filled, or a small stack
 * would lie in one. They cost addresses only. Where the host refuses, it stays as it was.
 */
void layout_shift(size_t heap, size_t mappings);
/* cffi: end */

#endif
