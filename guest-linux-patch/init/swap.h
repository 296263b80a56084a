/* SPDX-License-Identifier: Apache-2.0 */
/* The swap disk that the VMM gave. */
#ifndef INIT_SWAP_H
#define INIT_SWAP_H

/*
 * Swaps to the disk with the serial number in pyvmm.swap, which gets a signature if it is all new.
 * If that cannot be, says why, and the guest goes on without.
 */
void swap_on(void);

#endif
