/* SPDX-License-Identifier: Apache-2.0 */
#include "host/layout.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

void layout_shift(size_t heap, size_t mappings)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	/* malloc() goes on behind memory that somebody else took from the heap. */
	if (sbrk((intptr_t)heap) == (void *)-1)
		heap = 0;
	/* Stays mapped to the end, or the next mappings would fill it. */
	mmap(NULL, mappings, PROT_NONE, flags, -1, 0);
}
