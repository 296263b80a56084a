/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held pin: a page that was swapped out and in again, and is then held by a pipe.
 * held out MIB: memory that was all swapped out and in again.
 *
 * Says HELD, waits for a file /tmp/go, checks its memory, and ends with status 0 if all is right.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum { PAGE = 4096, PAGES_OF_MIB = 256, LOOK_US = 50000, TRIES = 20 };

static void need(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(2);
}

static char *memory(size_t pages)
{
	char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	                0);

	need(at != MAP_FAILED, "mmap");
	need(!madvise(at, pages * PAGE, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
	for (size_t i = 0; i < pages; i++)
		*(size_t *)(at + i * PAGE) = i + 1;
	return at;
}

static size_t wrong(const char *at, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += *(const size_t *)(at + i * PAGE) != i + 1;
	return count;
}

/* A page that was just written is swapped out at the second attempt, if at all. */
static void out_and_in(char *at, size_t pages)
{
	for (int i = 0; i < TRIES; i++) {
		need(!madvise(at, pages * PAGE, MADV_PAGEOUT), "MADV_PAGEOUT");
		usleep(LOOK_US / TRIES);
	}
	need(!wrong(at, pages), "contents");
}

static void into_a_pipe(char *at)
{
	struct iovec page = {at, PAGE};
	int ends[2];

	need(!pipe(ends) && vmsplice(ends[1], &page, 1, 0) == PAGE, "vmsplice");
}

int main(int argc, char **argv)
{
	size_t pages = argc == 3 ? strtoul(argv[2], NULL, 0) * PAGES_OF_MIB : 1, bad;
	char *at;

	need(argc > 1, "held pin | held out MIB");
	at = memory(pages);
	out_and_in(at, pages);
	if (!strcmp(argv[1], "pin"))
		into_a_pipe(at);
	printf("HELD %s\n", argv[1]);
	fflush(stdout);
	while (access("/tmp/go", F_OK))
		usleep(LOOK_US);
	bad = wrong(at, pages);
	printf("LET GO %s, %zu pages wrong\n", argv[1], bad);
	return bad != 0;
}
