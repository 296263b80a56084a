/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wander MIB SECONDS: fills that much memory, then reads, checks and changes pages of it at random,
 * with pauses as of a program that also does something else. At the end it checks them all:
 *
 *     filled
 *     TOUCHES touches, WRONG wrong
 *
 * The exit status is 1 if one was wrong.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	WORDS = PAGE / sizeof(uint64_t),
	BURST = 64, /* touches between two pauses */
	PAUSE_US = 500,
};

/* The first word of a page counts its changes, the last one follows from number and count. */
static uint64_t last_word(uint64_t number, uint64_t count)
{
	return (number + 1) * 0x9e3779b97f4a7c15ULL + count;
}

static int is_wrong(const uint64_t *page, uint64_t number)
{
	return page[WORDS - 1] != last_word(number, page[0]);
}

static void change(uint64_t *page, uint64_t number)
{
	page[0]++;
	page[WORDS - 1] = last_word(number, page[0]);
}

static uint64_t next_random(void)
{
	static uint64_t state = 0x2545f4914f6cdd1dULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

int main(int argc, char **argv)
{
	uint64_t pages = argc == 3 ? strtoull(argv[1], NULL, 10) * 256 : 0;
	uint64_t touches = 0, wrong = 0;
	uint64_t *memory;
	time_t end;

	if (!pages)
		return 2;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	              0);
	if (memory == MAP_FAILED)
		return 2;
	for (uint64_t i = 0; i < pages; i++)
		change(memory + i * WORDS, i);
	puts("filled");
	fflush(stdout);
	end = now() + strtol(argv[2], NULL, 10);
	while (now() < end) {
		for (int i = 0; i < BURST; i++, touches++) {
			uint64_t number = next_random() % pages;

			wrong += (uint64_t)is_wrong(memory + number * WORDS, number);
			change(memory + number * WORDS, number);
		}
		usleep(PAUSE_US);
	}
	for (uint64_t i = 0; i < pages; i++)
		wrong += (uint64_t)is_wrong(memory + i * WORDS, i);
	printf("%llu touches, %llu wrong\n", (unsigned long long)touches,
	       (unsigned long long)wrong);
	return wrong != 0;
}
