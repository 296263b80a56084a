/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small functions that everything from a guest goes through, with every input of a small scope:
 * scattered buffers of up to four pieces of up to three bytes, guest memory of two regions at every
 * address and length next to an edge, and every queue of two descriptors, with an indirect table of
 * two more. Each answer is compared with one that is had by other means.
 *
 * Prints how many cases each part had; ends with 1 at the first that differs.
 */
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/guard.h"
#include "host/iovec.h"
#include "machine/memory.h"
#include "virtio/queue.h"

static unsigned long cases;

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("line %d: %s\n", __LINE__, #condition);                             \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Scattered buffers. */

enum { PIECES = 4, LONGEST = 3, WHOLE = PIECES * LONGEST };

/* Pieces of the heap's, so that the sanitizer sees the end of each; and the same bytes in a row. */
struct scattered {
	struct iovec iov[PIECES];
	uint8_t *memory[PIECES];
	struct iovec_list list;
	uint8_t flat[WHOLE];
	size_t first, end; /* of them, what is left */
};

static void scatter(struct scattered *it, uint32_t count, const uint8_t *lengths)
{
	it->list = (struct iovec_list){it->iov, count, 0};
	it->first = it->end = 0;
	for (uint32_t i = 0; i < count; i++) {
		it->memory[i] = malloc(lengths[i]);
		it->iov[i] = (struct iovec){it->memory[i], lengths[i]};
		it->list.bytes += lengths[i];
		for (uint8_t k = 0; k < lengths[i]; k++) {
			it->memory[i][k] = it->flat[it->end] = (uint8_t)(100 + it->end);
			it->end++;
		}
	}
}

static void gather(struct scattered *it, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		free(it->memory[i]);
}

/* What is left, byte for byte. */
static void check_left(const struct scattered *it)
{
	size_t left = it->end - it->first, sum = 0;

	CHECK(it->list.bytes == left);
	for (uint32_t i = 0; i < it->list.count; i++)
		sum += it->list.iov[i].iov_len;
	CHECK(sum == left);
	for (size_t i = 0; i < left; i++) {
		const uint8_t *at = iovec_at(&it->list, i);

		CHECK(at && *at == it->flat[it->first + i]);
	}
	CHECK(!iovec_at(&it->list, left));
	CHECK(left ? iovec_last(&it->list) == iovec_at(&it->list, left - 1)
	           : !iovec_last(&it->list));
}

static void operate(struct scattered *it, int operation, size_t bytes)
{
	size_t left = it->end - it->first, some = bytes < left ? bytes : left;
	uint8_t buffer[WHOLE + 2];
	struct iovec_limit limit;

	switch (operation) {
	case 0:
		CHECK(iovec_skip(&it->list, bytes) == some);
		it->first += some;
		break;
	case 1:
		CHECK(iovec_cut(&it->list, bytes) == some);
		it->end -= some;
		break;
	case 2:
		CHECK(iovec_take(&it->list, buffer, bytes) == some);
		CHECK(!memcmp(buffer, it->flat + it->first, some));
		it->first += some;
		break;
	case 3:
		memset(buffer, (int)bytes, sizeof(buffer));
		CHECK(iovec_put(&it->list, buffer, bytes) == some);
		memset(it->flat + it->first, (int)bytes, some);
		it->first += some;
		break;
	default: {
		size_t sum = 0;

		limit = iovec_limit(&it->list, bytes);
		for (uint32_t i = 0; i < limit.count; i++)
			sum += it->list.iov[i].iov_len;
		CHECK(sum == some);
		iovec_unlimit(&limit);
		break;
	}
	}
	check_left(it);
	cases++;
}

static void two_operations(uint32_t count, const uint8_t *lengths, uint32_t total)
{
	for (uint32_t first = 0; first < 5 * (total + 2); first++) {
		for (uint32_t second = 0; second < 5 * (total + 2); second++) {
			struct scattered it;

			scatter(&it, count, lengths);
			operate(&it, (int)(first % 5), first / 5);
			operate(&it, (int)(second % 5), second / 5);
			gather(&it, count);
		}
	}
}

static void every_list(void)
{
	for (uint32_t count = 0; count <= PIECES; count++) {
		for (uint32_t all = 0; all < 1u << 2 * count; all++) {
			uint8_t lengths[PIECES] = {0};
			uint32_t total = 0;

			for (uint32_t i = 0; i < count; i++) {
				lengths[i] = (uint8_t)(all >> 2 * i & LONGEST);
				total += lengths[i];
			}
			two_operations(count, lengths, total);
		}
	}
}

/* Guest memory. */

typedef unsigned __int128 wide;

struct region {
	uint64_t gpa, size;
	uint32_t flags;
	uint8_t *hva;
};

static uint8_t *expected_at(const struct region *regions, uint64_t gpa, uint64_t len,
                            uint32_t without)
{
	for (int i = 0; i < 2; i++) {
		const struct region *region = &regions[i];

		if (gpa >= region->gpa && (wide)gpa < (wide)region->gpa + region->size &&
		    (wide)gpa + len <= (wide)region->gpa + region->size)
			return region->flags & without ? NULL : region->hva + (gpa - region->gpa);
	}
	return NULL;
}

static void look_up(const struct guest_memory *memory, const struct region *regions, uint64_t gpa,
                    uint64_t len)
{
	CHECK(guest_memory_at(memory, gpa, len) == expected_at(regions, gpa, len, 0));
	CHECK(guest_memory_at_writable(memory, gpa, len) ==
	      expected_at(regions, gpa, len, GUEST_MEMORY_READONLY));
	CHECK(guest_memory_steady_at(memory, gpa, len) ==
	      expected_at(regions, gpa, len, GUEST_MEMORY_APERTURE));
	CHECK(guest_memory_ram_at(memory, gpa, len) ==
	      expected_at(regions, gpa, len, GUEST_MEMORY_READONLY | GUEST_MEMORY_APERTURE));
	cases++;
}

/* Two regions anywhere, at every address and length within two of an edge of either. */
static void every_lookup(void)
{
	static const uint64_t starts[] = {0, 0x1000, 0x3000, 1ULL << 32, 1ULL << 63, -0x3000ULL};
	static const uint64_t sizes[] = {0x1000, 0x2000, 1ULL << 40};
	/* Never looked at: the addresses alone count. */
	uint8_t *hva = (uint8_t *)0x100000000000;

	for (uint32_t all = 0; all < 6 * 6 * 3 * 3 * 16; all++) {
		struct region regions[2] = {
		        {starts[all % 6], sizes[all / 36 % 3], all / 324 % 4, hva},
		        {starts[all / 6 % 6], sizes[all / 108 % 3], all / 1296 % 4,
			 hva + (1ULL << 44)},
		};
		struct guest_memory *memory = guest_memory_create();
		uint64_t edges[6] = {0, 0};
		bool added = true;

		for (int i = 0; i < 2; i++) {
			added = added && !guest_memory_add(memory, regions[i].gpa, regions[i].size,
			                                   regions[i].hva, regions[i].flags);
			edges[2 + 2 * i] = regions[i].gpa;
			edges[3 + 2 * i] = regions[i].gpa + regions[i].size;
		}
		for (int from = 0; added && from < 6 * 5; from++) {
			for (int to = 0; to < 6 * 5; to++) {
				uint64_t gpa = edges[from / 5] + (uint64_t)(from % 5) - 2;
				uint64_t until = edges[to / 5] + (uint64_t)(to % 5) - 2;

				look_up(memory, regions, gpa, until - gpa);
			}
		}
		guest_memory_destroy(memory);
	}
}

/* Descriptor chains. */

enum {
	SIZE = 2,
	RAM = 0x2000,
	TABLE = 0x800,
	ROM_AT = 0x10000,
	APERTURE_AT = 0x20000,
	ADDRESSES = 4,
	LENGTHS = 3,
	FLAGS = 8,
	LINKS = 3,
	DESCRIPTORS = ADDRESSES * LENGTHS * FLAGS * LINKS,
};

static const uint64_t addresses[ADDRESSES] = {0x1000, RAM - 1, ROM_AT, APERTURE_AT};
static const uint32_t lengths[LENGTHS] = {0, 2, 0xffffffff};

static struct vring_desc descriptor(uint32_t number)
{
	return (struct vring_desc){
	        .addr = addresses[number % ADDRESSES],
	        .len = lengths[number / ADDRESSES % LENGTHS],
	        .flags = (uint16_t)(number / (ADDRESSES * LENGTHS) % FLAGS),
	        .next = (uint16_t)(number / (ADDRESSES * LENGTHS * FLAGS)),
	};
}

/* A chain as the specification has it: the buffers in order, or that there is something wrong. */
struct chain {
	bool wrong;
	uint32_t count, writable;
	uint64_t addresses[2 * SIZE];
	uint32_t lengths[2 * SIZE];
};

static bool in_memory(const struct vring_desc *desc)
{
	static const uint64_t ends[] = {RAM, ROM_AT + 0x1000, APERTURE_AT + 0x1000};

	for (int i = 0; i < 3; i++) {
		uint64_t start = i ? ends[i] - 0x1000 : 0;

		if (desc->addr >= start && desc->addr < ends[i])
			return (wide)desc->addr + desc->len <= ends[i] &&
			       !(i == 1 && desc->flags & VRING_DESC_F_WRITE);
	}
	return false;
}

static void expect_buffer(struct chain *chain, const struct vring_desc *desc)
{
	bool write = desc->flags & VRING_DESC_F_WRITE;

	if (!in_memory(desc) || (!write && chain->writable) || chain->count == SIZE) {
		chain->wrong = true;
		return;
	}
	chain->addresses[chain->count] = desc->addr;
	chain->lengths[chain->count++] = desc->len;
	chain->writable += write;
}

static void expect(struct chain *chain, const struct vring_desc *table, uint32_t size,
                   uint32_t head, const struct vring_desc *indirect)
{
	for (uint32_t steps = 0; !chain->wrong; steps++) {
		const struct vring_desc *desc = &table[head];

		if (head >= size || steps == size) {
			chain->wrong = true;
		} else if (desc->flags & VRING_DESC_F_INDIRECT) {
			/* Of the table that the outer one names, whole entries, and no further. */
			if (!indirect || desc->flags & VRING_DESC_F_NEXT || !desc->len ||
			    desc->len % sizeof(*desc) || desc->addr != TABLE ||
			    desc->len > RAM - TABLE)
				chain->wrong = true;
			else
				expect(chain, indirect, desc->len / sizeof(*desc), 0, NULL);
			return;
		} else {
			expect_buffer(chain, desc);
			head = desc->next;
			if (!(desc->flags & VRING_DESC_F_NEXT))
				return;
		}
	}
}

struct world {
	struct guest_memory *memory;
	uint8_t *ram, *rom, *aperture;
	struct virtqueue queue;
	struct virtqueue_chain *chain;
};

static uint64_t gpa_of(const struct world *world, const void *hva)
{
	const uint8_t *at = hva;

	if (at >= world->ram && at < world->ram + RAM)
		return (uint64_t)(at - world->ram);
	if (at >= world->rom && at < world->rom + 0x1000)
		return ROM_AT + (uint64_t)(at - world->rom);
	return APERTURE_AT + (uint64_t)(at - world->aperture);
}

static void compare(const struct world *world, const struct chain *chain, int ret)
{
	const struct iovec_list *lists[] = {&world->chain->readable, &world->chain->writable};
	uint32_t at = 0;

	CHECK(ret == (chain->wrong ? ret < 0 ? ret : 99 : 1));
	for (int i = 0; i < 2 && !chain->wrong; i++) {
		uint64_t bytes = 0;

		for (uint32_t k = 0; k < lists[i]->count; k++, at++) {
			CHECK(gpa_of(world, lists[i]->iov[k].iov_base) == chain->addresses[at]);
			CHECK(lists[i]->iov[k].iov_len == chain->lengths[at]);
			bytes += chain->lengths[at];
		}
		CHECK(lists[i]->bytes == bytes);
	}
	CHECK(chain->wrong || (at == chain->count && lists[1]->count == chain->writable));
	cases++;
}

static void pop(struct world *world, uint16_t head)
{
	const struct vring_desc *table = (const void *)world->ram;
	const struct vring_desc *indirect = (const void *)(world->ram + TABLE);
	struct vring_avail *avail = (void *)(world->ram + 0x100);
	struct chain chain = {0};

	virtqueue_start(&world->queue, world->memory, 1ULL << VIRTIO_RING_F_INDIRECT_DESC);
	avail->idx = 1;
	avail->ring[0] = head;
	expect(&chain, table, SIZE, head, indirect);
	compare(world, &chain, virtqueue_pop(&world->queue, world->chain));
}

/* Every pair of descriptors, from every head. */
static void every_chain(struct world *world)
{
	struct vring_desc *table = (void *)world->ram;

	for (uint32_t all = 0; all < DESCRIPTORS * DESCRIPTORS; all++) {
		table[0] = descriptor(all % DESCRIPTORS);
		table[1] = descriptor(all / DESCRIPTORS);
		for (uint16_t head = 0; head < 3; head++)
			pop(world, head);
	}
}

/* Every pair in a table that the second of two descriptors, or the first, has. */
static void every_table(struct world *world)
{
	static const uint32_t sizes[] = {16, 32};
	struct vring_desc *table = (void *)world->ram, *inner = (void *)(world->ram + TABLE);

	for (uint32_t all = 0; all < DESCRIPTORS * DESCRIPTORS; all++) {
		inner[0] = descriptor(all % DESCRIPTORS);
		inner[1] = descriptor(all / DESCRIPTORS);
		for (uint32_t i = 0; i < 4; i++) {
			table[0] = (struct vring_desc){0x1000, 2, VRING_DESC_F_NEXT, 1};
			table[1] =
			        (struct vring_desc){TABLE, sizes[i % 2], VRING_DESC_F_INDIRECT, 0};
			pop(world, i / 2);
		}
	}
}

/* Outer descriptors of every kind before a table that is good. */
static void every_outer(struct world *world)
{
	static const uint32_t sizes[] = {0, 1, 15, 16, 17, 31, 32, 33, 48, 0xfffffff0, 0xffffffff};
	static const uint64_t places[] = {TABLE, TABLE + 1, RAM - 16, APERTURE_AT, ~0ULL - 15};
	struct vring_desc *table = (void *)world->ram, *inner = (void *)(world->ram + TABLE);

	inner[0] = (struct vring_desc){0x1000, 2, VRING_DESC_F_NEXT, 1};
	inner[1] = (struct vring_desc){0x1000, 2, VRING_DESC_F_WRITE, 0};
	for (uint32_t all = 0; all < 11 * 5 * 8; all++) {
		table[0] = (struct vring_desc){places[all % 5], sizes[all / 5 % 11],
		                               (uint16_t)(VRING_DESC_F_INDIRECT | all / 55), 1};
		table[1] = (struct vring_desc){0x1000, 2, 0, 0};
		/* Elsewhere there are zeros: an empty readable buffer at 0, where that is a table.
		 */
		if (places[all % 5] == TABLE)
			pop(world, 0);
		else
			virtqueue_pop(&world->queue, world->chain);
	}
}

static void set_up(struct world *world)
{
	world->memory = guest_memory_create();
	world->ram = calloc(1, RAM);
	world->rom = calloc(1, 0x1000);
	world->aperture = calloc(1, 0x1000);
	world->chain = virtqueue_chain_create(SIZE);
	world->queue = (struct virtqueue){
	        .size_max = SIZE,
	        .size = SIZE,
	        .avail_gpa = 0x100,
	        .used_gpa = 0x200,
	};
	guest_memory_add(world->memory, 0, RAM, world->ram, 0);
	guest_memory_add(world->memory, ROM_AT, 0x1000, world->rom, GUEST_MEMORY_READONLY);
	guest_memory_add(world->memory, APERTURE_AT, 0x1000, world->aperture,
	                 GUEST_MEMORY_APERTURE);
}

static void tear_down(struct world *world)
{
	guest_memory_destroy(world->memory);
	free(world->ram);
	free(world->rom);
	free(world->aperture);
	free(world->chain);
}

int main(void)
{
	unsigned long lists, lookups;
	struct world world;

	guard_setup();
	every_list();
	lists = cases;
	every_lookup();
	lookups = cases - lists;
	set_up(&world);
	every_chain(&world);
	every_table(&world);
	every_outer(&world);
	tear_down(&world);
	printf("%lu %lu %lu\n", lists, lookups, cases - lists - lookups);
	return 0;
}
