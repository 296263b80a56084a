/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touch MIB: writes a pattern into that much memory and says where some of it lies:
 *
 *     page GUEST_PHYSICAL_ADDRESS WORD     the lowest, the highest, and a few between
 *
 * Every page holds one word, repeated, made from its virtual address. A line on standard input ends
 * it; before that it reads everything again.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE       4096u
#define WORDS      (PAGE / sizeof(uint64_t))
#define FRAME_MASK ((1ULL << 55) - 1)
#define BETWEEN    16u

static uint64_t word_of(const uint64_t *page)
{
	return (uintptr_t)page * 0x9e3779b97f4a7c15ULL;
}

static uint64_t physical(int pagemap, const uint64_t *page)
{
	uint64_t entry = 0;

	if (pread(pagemap, &entry, sizeof(entry),
	          (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
		return 0;
	return (entry & FRAME_MASK) * PAGE;
}

static void tell(int pagemap, const uint64_t *page)
{
	printf("page %llu %llu\n", (unsigned long long)physical(pagemap, page),
	       (unsigned long long)word_of(page));
}

int main(int count, char **words)
{
	size_t pages = count > 1 ? strtoul(words[1], NULL, 10) * (1 << 20) / PAGE : 0;
	uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
	                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t *lowest = memory, *highest = memory;

	if (!pages || memory == MAP_FAILED || pagemap < 0 || mlock(memory, pages * PAGE))
		return 1;
	for (size_t i = 0; i < pages; i++) {
		uint64_t *page = memory + i * WORDS;

		for (size_t word = 0; word < WORDS; word++)
			page[word] = word_of(page);
		if (physical(pagemap, page) < physical(pagemap, lowest))
			lowest = page;
		if (physical(pagemap, page) > physical(pagemap, highest))
			highest = page;
	}
	tell(pagemap, lowest);
	tell(pagemap, highest);
	for (size_t i = 0; i < BETWEEN; i++)
		tell(pagemap, memory + pages / BETWEEN * i * WORDS);
	puts("touched");
	fflush(stdout);
	getchar();
	for (size_t i = 0; i < pages * WORDS; i++)
		if (memory[i] != word_of(memory + i / WORDS * WORDS))
			return 2;
	puts("unchanged");
	return 0;
}
