/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wander MIB: fills that much memory, then reads, checks and changes pages of it at random, with
 * pauses as of a program that also does something else. It tells how far it is now and then, ends
 * when there is something to read, and then checks all pages:
 *
 *     filled
 *     at TOUCHES
 *     TOUCHES touches, WRONG wrong
 *
 * The exit status is 1 if one was wrong.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	WORDS = PAGE / sizeof(uint64_t),
	BURST = 64, /* touches between two pauses */
	PAUSE_US = 500,
	TELL = 16, /* pauses between two words of how far it is */
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

static int is_asked_to_end(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};

	return poll(&input, 1, 0) != 0;
}

static void say(const char *text, uint64_t number)
{
	printf("%s %llu\n", text, (unsigned long long)number);
	fflush(stdout);
}

/* How many pages were wrong. */
static uint64_t wander(uint64_t *memory, uint64_t pages, uint64_t *touches)
{
	uint64_t wrong = 0;

	for (uint64_t pauses = 0; !is_asked_to_end(); pauses++) {
		for (int i = 0; i < BURST; i++, ++*touches) {
			uint64_t number = next_random() % pages;

			wrong += (uint64_t)is_wrong(memory + number * WORDS, number);
			change(memory + number * WORDS, number);
		}
		if (pauses % TELL == 0)
			say("at", *touches);
		usleep(PAUSE_US);
	}
	return wrong;
}

int main(int argc, char **argv)
{
	uint64_t pages = argc == 2 ? strtoull(argv[1], NULL, 10) * 256 : 0;
	uint64_t touches = 0, wrong = 0;
	uint64_t *memory;

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
	wrong = wander(memory, pages, &touches);
	for (uint64_t i = 0; i < pages; i++)
		wrong += (uint64_t)is_wrong(memory + i * WORDS, i);
	printf("%llu touches, %llu wrong\n", (unsigned long long)touches,
	       (unsigned long long)wrong);
	return wrong != 0;
}
