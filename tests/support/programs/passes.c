/* SPDX-License-Identifier: Apache-2.0 */
/*
 * passes MIB COUNT [hold]
 *
 * Runs in a guest: fills so many MiB of private memory, and goes over them so many times. Each pass
 * checks that a page holds what the last one wrote, and writes something else. Prints how long each
 * took in milliseconds, and the number of wrong pages at the end: status 1 if there are any. With
 * "hold" it waits for its input to end, and goes over them once more.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / sizeof(uint64_t), STEP = 64 };

static uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t word(uint64_t page, uint64_t index, uint64_t pass)
{
	return (page * WORDS + index) * 0x9e3779b97f4a7c15ULL + pass;
}

static void write_page(uint64_t *at, uint64_t page, uint64_t pass)
{
	for (uint64_t i = 0; i < WORDS; i += STEP)
		at[i] = word(page, i, pass);
}

static int is_right(const uint64_t *at, uint64_t page, uint64_t pass)
{
	for (uint64_t i = 0; i < WORDS; i += STEP) {
		if (at[i] != word(page, i, pass))
			return 0;
	}
	return 1;
}

static uint64_t go_over(uint64_t *memory, uint64_t pages, uint64_t pass)
{
	uint64_t began = milliseconds(), wrong = 0;

	for (uint64_t page = 0; page < pages; page++) {
		uint64_t *at = memory + page * WORDS;

		wrong += !is_right(at, page, pass - 1);
		write_page(at, page, pass);
	}
	printf("pass %llu: %llu ms\n", (unsigned long long)pass,
	       (unsigned long long)(milliseconds() - began));
	fflush(stdout);
	return wrong;
}

int main(int argc, char **argv)
{
	uint64_t pages, count, wrong = 0, began = milliseconds();
	uint64_t *memory;

	if (argc < 3)
		return 2;
	pages = strtoull(argv[1], NULL, 0) * 256;
	count = strtoull(argv[2], NULL, 0);
	/* Linux counts RAM and swap areas, and no tier: more than that is had for the asking only.
	 */
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	for (uint64_t page = 0; page < pages; page++)
		write_page(memory + page * WORDS, page, 0);
	printf("pass 0: %llu ms\n", (unsigned long long)(milliseconds() - began));
	for (uint64_t pass = 1; pass <= count; pass++)
		wrong += go_over(memory, pages, pass);
	if (argc > 3) {
		char line[64];

		printf("HOLDS\n");
		fflush(stdout);
		while (fgets(line, sizeof(line), stdin) && strcmp(line, "go\n"))
			;
		wrong += go_over(memory, pages, count + 1);
	}
	printf("PASSES DONE, %llu pages wrong\n", (unsigned long long)wrong);
	return wrong != 0;
}
