/* SPDX-License-Identifier: Apache-2.0 */
#include "host/layout.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define LARGEST_HOLE  ((size_t)64 << 20)
#define SMALLEST_HOLE ((size_t)4096)
/* More than there are holes. Where mappings grow upwards (ulimit -s unlimited) all is above. */
#define MOST_HOLES 256

static void *reserve(size_t size)
{
	return mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

/*
 * The kernel puts a mapping into the highest hole that it fits into: as long as there is one above,
 * what comes to lie below the limit was not needed.
 */
static void fill_holes_above(char *limit)
{
	int left = MOST_HOLES;

	for (size_t size = LARGEST_HOLE; left && size >= SMALLEST_HOLE; size /= 2) {
		char *at;

		while ((at = reserve(size)) != MAP_FAILED && at > limit && --left)
			;
		if (at != MAP_FAILED && at < limit)
			munmap(at, size);
	}
}

void layout_shift(size_t heap, size_t mappings)
{
	char *below;

	/* malloc() goes on behind memory that somebody else took from the heap. */
	if (sbrk((intptr_t)heap) == (void *)-1)
		heap = 0;
	/* Stays mapped to the end, or the next mappings would fill it. */
	below = reserve(mappings);
	if (below != MAP_FAILED)
		fill_holes_above(below);
}
