/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct memory_region {
	uint64_t gpa;
	uint64_t size;
	uint8_t *hva;
	uint32_t flags;
};

struct guest_memory {
	/* Published last, with release order: a reader never sees a half-written region. */
	uint32_t count;
	struct memory_region regions[GUEST_MEMORY_MAX_REGIONS];
};

enum { PAGE_MASK = 0xfff };

struct guest_memory *guest_memory_create(void)
{
	return calloc(1, sizeof(struct guest_memory));
}

void guest_memory_destroy(struct guest_memory *memory)
{
	free(memory);
}

int guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size, void *hva,
                     uint32_t flags)
{
	uint32_t count = memory->count;

	if (!size || gpa + size < gpa || ((gpa | size) & PAGE_MASK))
		return -EINVAL;
	if (count == GUEST_MEMORY_MAX_REGIONS)
		return -ENOSPC;
	for (uint32_t i = 0; i < count; i++) {
		const struct memory_region *other = &memory->regions[i];

		if (gpa < other->gpa + other->size && other->gpa < gpa + size)
			return -EEXIST;
	}
	memory->regions[count] = (struct memory_region){gpa, size, hva, flags};
	__atomic_store_n(&memory->count, count + 1, __ATOMIC_RELEASE);
	return 0;
}

static const struct memory_region *region_of(const struct guest_memory *memory, uint64_t gpa,
                                             uint64_t len)
{
	uint32_t count = __atomic_load_n(&memory->count, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < count; i++) {
		const struct memory_region *region = &memory->regions[i];
		uint64_t offset = gpa - region->gpa;

		/* Subtraction wraps for addresses below the region, so one test covers both ends.
		 */
		if (offset < region->size)
			return len <= region->size - offset ? region : NULL;
	}
	return NULL;
}

static void *at_without(const struct guest_memory *memory, uint64_t gpa, uint64_t len,
                        uint32_t flags)
{
	const struct memory_region *region = region_of(memory, gpa, len);

	if (!region || (region->flags & flags))
		return NULL;
	return region->hva + (gpa - region->gpa);
}

void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len)
{
	return at_without(memory, gpa, len, 0);
}

void *guest_memory_at_writable(const struct guest_memory *memory, uint64_t gpa, uint64_t len)
{
	return at_without(memory, gpa, len, GUEST_MEMORY_READONLY);
}

void *guest_memory_steady_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len)
{
	return at_without(memory, gpa, len, GUEST_MEMORY_APERTURE);
}

void *guest_memory_ram_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len)
{
	return at_without(memory, gpa, len, GUEST_MEMORY_READONLY | GUEST_MEMORY_APERTURE);
}

void *host_map(int fd, uint64_t size, uint64_t offset, int readonly)
{
	int protection = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *hva = mmap(NULL, size, protection, flags | MAP_NORESERVE, fd, (off_t)offset);

	return hva == MAP_FAILED ? NULL : hva;
}

int host_unmap(void *hva, uint64_t size)
{
	return munmap(hva, size) ? -errno : 0;
}
