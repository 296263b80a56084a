/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Computes the same things over and over and compares: integers, x87 and SSE arithmetic, memory
 * that is mapped anew each round, a pipe to itself, string instructions, a port. Until the time
 * given (seconds) is over. Prints the rounds, or what came out wrong and where.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 32768, BYTES = WORDS * 8 };

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t sum_memory(void)
{
	uint64_t *words =
	        mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t state = 88172645463325252ull, sum = 0;

	if (words == MAP_FAILED)
		exit(2);
	for (int i = 0; i < WORDS; i++)
		words[i] = next(&state);
	memmove(words + 1, words, BYTES - 8);
	for (int i = 0; i < WORDS; i++)
		sum = (sum << 5 | sum >> 59) ^ words[i];
	munmap(words, BYTES);
	return sum;
}

static double sum_sse(void)
{
	double sum = 0;

	for (int i = 1; i < 20000; i++)
		sum += 1.0 / i * (i & 1 ? 1 : -1);
	return sum;
}

static long double sum_x87(void)
{
	long double sum = 0;

	for (int i = 1; i < 5000; i++)
		sum += 1.0L / ((long double)i * i);
	return sum;
}

static uint64_t through_pipe(void)
{
	uint64_t state = 1, sum = 0, word;
	int ends[2];

	if (pipe(ends))
		exit(2);
	for (int i = 0; i < 200; i++) {
		word = next(&state);
		if (write(ends[1], &word, 8) != 8 || read(ends[0], &word, 8) != 8)
			exit(2);
		sum = sum * 31 + word;
	}
	close(ends[0]);
	close(ends[1]);
	return sum;
}

static void same(int round, const char *what, const void *now, const void *first, size_t size)
{
	if (!memcmp(now, first, size))
		return;
	printf("WRONG %s in round %d\n", what, round);
	exit(1);
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
	uint64_t memory = sum_memory(), piped = through_pipe();
	double sse = sum_sse();
	long double x87 = sum_x87();
	int rounds = 0;

	if (ioperm(0x80, 1, 1))
		return 2;
	for (; time(NULL) < end; rounds++) {
		uint64_t m = sum_memory(), p = through_pipe();
		double s = sum_sse();
		long double x = sum_x87();

		same(rounds, "memory", &m, &memory, sizeof(m));
		same(rounds, "pipe", &p, &piped, sizeof(p));
		same(rounds, "SSE", &s, &sse, sizeof(s));
		same(rounds, "x87", &x, &x87, 10);
		outb(1, 0x80);
	}
	printf("rounds %d\n", rounds);
	return 0;
}
