/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that may be gone when it is used. A mapping of a file gives SIGBUS where the file system
 * is full, where somebody cut the file off, or where the host's disk fails (mmap(2)); that would
 * end the process, and every machine in it. Here it is an error.
 *
 * For memory of the guest's, which may be such a file: a swap disk's. Rings and page tables are in
 * RAM, which is anonymous or a memfd that nobody can cut off.
 */
#ifndef PYVMM_HOST_GUARD_H
#define PYVMM_HOST_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* cffi: begin */
/* Installs the handler of SIGBUS for the process: 0 or -errno. For those who map a file, each time;
 * until then a guard costs nothing. A SIGBUS that comes from elsewhere goes to the handler that was
 * there before. */
int guard_setup(void);

/* Copies, as memmove(3): false if some of either was gone. How much was copied then is not known.
 */
bool guard_copy(void *to, const void *from, size_t bytes);
/* cffi: end */

#endif
