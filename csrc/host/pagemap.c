/* SPDX-License-Identifier: Apache-2.0 */
#include "host/pagemap.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	PIECE = 2 << 20, /* what one huge page may be */
	PIECE_PAGES = PIECE / PAGE,
};

#define PRESENT   (1ULL << 63)
#define SWAPPED   (1ULL << 62) /* or on its way to another place */
#define EXCLUSIVE (1ULL << 56) /* mapped here and nowhere else, which a page of zeros is not */

void pagemap_open(struct pagemap *map, void *memory, uint64_t size)
{
	*map = (struct pagemap){
	        .memory = memory,
	        .size = size,
	        .fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
	};
}

void pagemap_close(struct pagemap *map)
{
	if (map->fd >= 0)
		close(map->fd);
	map->fd = -1;
}

static bool read_entries(const struct pagemap *map, uint64_t offset, uint64_t *entries,
                         uint64_t count)
{
	size_t bytes = count * sizeof(*entries);
	off_t at = (off_t)(((uintptr_t)map->memory + offset) / PAGE * sizeof(*entries));

	return pread(map->fd, entries, bytes, at) == (ssize_t)bytes;
}

int pagemap_has(const struct pagemap *map, uint64_t offset)
{
	uint64_t entry;
	uint8_t resident;

	if (map->fd >= 0)
		return read_entries(map, offset, &entry, 1) && entry & (PRESENT | SWAPPED);
	/* Says nothing of a page that the host has swapped out. */
	return !mincore(map->memory + offset, PAGE, &resident) && resident & 1;
}

static bool is_own(uint64_t entry)
{
	return entry & PRESENT && entry & EXCLUSIVE;
}

/* `resident` is of mincore(). It knows no page of zeros from another: the first page stands for all
 * where all are there, as in a huge page. */
static uint64_t count_piece(const struct pagemap *map, uint64_t offset, const uint8_t *resident,
                            uint64_t pages)
{
	uint64_t entries[PIECE_PAGES], found = 0, own = 0;

	for (uint64_t i = 0; i < pages; i++)
		found += resident[i] & 1;
	if (!found || map->fd < 0)
		return found;
	if (found == pages && read_entries(map, offset, entries, 1) && is_own(entries[0]))
		return found;
	if (!read_entries(map, offset, entries, pages))
		return found;
	for (uint64_t i = 0; i < pages; i++)
		own += is_own(entries[i]);
	return own;
}

/* Most of a large store was never touched, and is passed over by words. */
static bool is_empty(const uint8_t *resident, uint64_t pages)
{
	uint64_t all = 0, word;
	uint64_t i = 0;

	for (; i + sizeof(word) <= pages; i += sizeof(word)) {
		memcpy(&word, resident + i, sizeof(word));
		all |= word;
	}
	for (; i < pages; i++)
		all |= resident[i];
	return !all;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t pagemap_chunk(const struct pagemap *map, uint64_t chunk)
{
	uint64_t start = chunk * PAGEMAP_CHUNK, pages = 0;
	uint64_t length = least(PAGEMAP_CHUNK, map->size - start);
	uint8_t resident[PAGEMAP_CHUNK / PAGE];

	if (mincore(map->memory + start, length, resident) || is_empty(resident, length / PAGE))
		return 0;
	for (uint64_t piece = 0; piece < length; piece += PIECE)
		pages += count_piece(map, start + piece, resident + piece / PAGE,
		                     least(PIECE, length - piece) / PAGE);
	return pages * PAGE;
}

uint64_t pagemap_bytes(const struct pagemap *map)
{
	uint64_t bytes = 0;

	for (uint64_t chunk = 0; chunk * PAGEMAP_CHUNK < map->size; chunk++)
		bytes += pagemap_chunk(map, chunk);
	return bytes;
}

uint64_t pagemap_count(void *memory, uint64_t size)
{
	struct pagemap map;
	uint64_t bytes;

	pagemap_open(&map, memory, size);
	bytes = pagemap_bytes(&map);
	pagemap_close(&map);
	return bytes;
}
