// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that are used where they lie in a swap area: what becomes of them in
 * each part of memory management that has an opinion.
 *
 * Needs root, a symbiotic VMM with a swap disk in mode "direct" or "symcall",
 * and swap on that disk alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "../kselftest_harness.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE 0x10000
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};

#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

#define PAGE		4096UL
#define HUGE		(512 * PAGE)
#define PAGES		64
#define KSM		"/sys/kernel/mm/ksm/"

#define PM_PFN_MASK	0x007fffffffffffffULL
#define PM_SWAPPED	0x4000000000000000ULL
#define PM_PRESENT	0x8000000000000000ULL

/* The VMM's memory behind the swap disk, in pages. */
static uint64_t area_start, area_end;

static bool find_area(void)
{
	unsigned long long start, end;
	char line[256];
	FILE *file = fopen("/proc/iomem", "r");

	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, "symbiotic swap"))
			continue;
		if (sscanf(line, " %llx-%llx", &start, &end) == 2) {
			area_start = start / PAGE;
			area_end = end / PAGE;
		}
	}
	if (file)
		fclose(file);
	return area_end;
}

static uint64_t entry_of(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (fd < 0 || pread(fd, &entry, sizeof(entry), (uintptr_t)page / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry;
}

static bool adopted(const void *page)
{
	uint64_t entry = entry_of(page), pfn = entry & PM_PFN_MASK;

	return entry & PM_PRESENT && pfn >= area_start && pfn <= area_end;
}

static size_t count_adopted(const char *at, size_t pages)
{
	size_t i, count = 0;

	for (i = 0; i < pages; i++)
		count += adopted(at + i * PAGE);
	return count;
}

/* Swapped out, all of it: 0, or how many pages stayed. */
static size_t page_out(char *at, size_t pages)
{
	size_t i, left = pages;
	int tries;

	for (tries = 0; tries < 100 && left; tries++) {
		madvise(at, pages * PAGE, MADV_PAGEOUT);
		for (i = left = 0; i < pages; i++)
			left += !(entry_of(at + i * PAGE) & PM_SWAPPED);
		if (left)
			usleep(20000);
	}
	return left;
}

static void fill(char *at, size_t pages, int seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		memset(at + i * PAGE, seed + i % 100, PAGE);
}

/* How many pages are not as fill() left them. Touches each. */
static size_t wrong(const char *at, size_t pages, int seed)
{
	size_t i, count = 0;

	for (i = 0; i < pages; i++) {
		const unsigned char *page = (const void *)(at + i * PAGE);

		count += page[0] != seed + i % 100 || page[PAGE - 1] != seed + i % 100;
	}
	return count;
}

static char *map(size_t pages, int flags, int fd)
{
	size_t bytes = (pages * PAGE + HUGE - 1) / HUGE * HUGE;
	char *at = mmap(NULL, bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	at += HUGE - (uintptr_t)at % HUGE;
	at = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

static char *small_pages(size_t pages)
{
	char *at = map(pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (at)
		madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	return at;
}

static long number_in(const char *path, const char *word)
{
	char line[256];
	long value = -1;
	FILE *file = fopen(path, "r");

	while (file && value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, word, strlen(word)))
			value = atol(line + strlen(word));
	if (file)
		fclose(file);
	return value;
}

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return done;
}

/* Locked memory in KiB, what CPUs have not added yet included. */
static long mlocked(void)
{
	put("/proc/sys/vm/stat_refresh", "1");
	return number_in("/proc/meminfo", "Mlocked:");
}

FIXTURE(bypass) {
	char *at;
};

/* PAGES pages that are used where they were swapped to. */
FIXTURE_SETUP(bypass)
{
	if (!find_area())
		SKIP(return, "no symbiotic VMM with a swap disk, or not root");
	self->at = small_pages(PAGES);
	ASSERT_NE(NULL, self->at);
	fill(self->at, PAGES, 1);
	ASSERT_EQ(0, page_out(self->at, PAGES));
	ASSERT_EQ(0, wrong(self->at, PAGES, 1));
	if (!count_adopted(self->at, PAGES))
		SKIP(return, "the swap disk is not bypassed now");
	ASSERT_EQ(PAGES, count_adopted(self->at, PAGES));
}

FIXTURE_TEARDOWN(bypass)
{
}

TEST_F(bypass, is_written_where_it_lies)
{
	fill(self->at, PAGES, 7);
	EXPECT_EQ(0, wrong(self->at, PAGES, 7));
	EXPECT_EQ(PAGES, count_adopted(self->at, PAGES));
	ASSERT_EQ(0, munmap(self->at, PAGES * PAGE));
}

TEST_F(bypass, is_copied_after_fork)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		bool bad = wrong(self->at, PAGES, 1);

		fill(self->at, PAGES, 9);
		_exit(bad || wrong(self->at, PAGES, 9));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, wrong(self->at, PAGES, 1));
}

/* Of a swap entry that has two users neither can take the page. */
TEST_F(bypass, is_read_when_shared)
{
	char *at = small_pages(PAGES), byte;
	int ends[2], status;
	pid_t pid;

	ASSERT_NE(NULL, at);
	fill(at, PAGES, 6);
	ASSERT_EQ(0, page_out(at, PAGES));
	ASSERT_EQ(0, pipe(ends));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) || wrong(at, PAGES, 6));
	}
	EXPECT_EQ(0, wrong(at, PAGES, 6));
	EXPECT_EQ(0, count_adopted(at, PAGES));
	close(ends[0]);
	close(ends[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F(bypass, outlives_its_mapping_in_a_pipe)
{
	struct iovec page = { self->at, PAGE };
	char copy[PAGE];
	int ends[2];

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(PAGE, vmsplice(ends[1], &page, 1, 0));
	ASSERT_EQ(0, madvise(self->at, PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, self->at[0]);
	ASSERT_EQ(PAGE, read(ends[0], copy, PAGE));
	EXPECT_EQ(0, wrong(copy, 1, 1));
}

TEST_F(bypass, is_not_for_file_mappings)
{
	int fd = memfd_create("swap_bypass", 0);
	char *shared, *private;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, HUGE));
	shared = map(HUGE / PAGE, MAP_SHARED, fd);
	ASSERT_NE(NULL, shared);
	fill(shared, HUGE / PAGE, 2);
	if (madvise(shared, HUGE, MADV_COLLAPSE))
		TH_LOG("no huge page for the file: %s", strerror(errno));
	private = map(HUGE / PAGE, MAP_PRIVATE, fd);
	ASSERT_NE(NULL, private);
	fill(private, 1, 5);
	ASSERT_EQ(0, page_out(private, 1));
	EXPECT_EQ(0, wrong(private, 1, 5));
	EXPECT_FALSE(adopted(private));
	/* The kernel has a warning for pages of devices here. */
	madvise(private, HUGE, MADV_COLLAPSE);
	EXPECT_EQ(0, wrong(private, 1, 5));
	EXPECT_EQ(0, wrong(shared, HUGE / PAGE, 2));
}

TEST_F(bypass, collapses)
{
	char *at = small_pages(HUGE / PAGE);

	ASSERT_NE(NULL, at);
	fill(at, HUGE / PAGE, 3);
	/* Some are used where they lie, others are swapped. */
	ASSERT_EQ(0, page_out(at, 2 * PAGES));
	EXPECT_EQ(0, wrong(at, PAGES, 3));
	EXPECT_EQ(PAGES, count_adopted(at, HUGE / PAGE));
	madvise(at, HUGE, MADV_HUGEPAGE);
	ASSERT_EQ(0, madvise(at, HUGE, MADV_COLLAPSE)) {
		TH_LOG("%s", strerror(errno));
	}
	EXPECT_EQ(0, count_adopted(at, HUGE / PAGE));
	EXPECT_EQ(0, wrong(at, HUGE / PAGE, 3));
}

/* In use by somebody else: as with any page, and not for good. */
TEST_F(bypass, collapses_once_it_is_not_pinned)
{
	char *at = small_pages(HUGE / PAGE), copy[PAGE];
	struct iovec page = { at, PAGE };
	int ends[2];

	ASSERT_NE(NULL, at);
	fill(at, HUGE / PAGE, 3);
	ASSERT_EQ(0, page_out(at, 1));
	EXPECT_EQ(0, wrong(at, 1, 3));
	ASSERT_TRUE(adopted(at));
	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(PAGE, vmsplice(ends[1], &page, 1, 0));
	madvise(at, HUGE, MADV_HUGEPAGE);
	EXPECT_EQ(-1, madvise(at, HUGE, MADV_COLLAPSE));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_EQ(PAGE, read(ends[0], copy, PAGE));
	EXPECT_EQ(0, madvise(at, HUGE, MADV_COLLAPSE));
	EXPECT_EQ(0, wrong(at, HUGE / PAGE, 3));
}

TEST_F(bypass, is_locked_in_ram)
{
	long before = mlocked();

	ASSERT_EQ(0, mlock(self->at, PAGES * PAGE));
	EXPECT_EQ(0, count_adopted(self->at, PAGES));
	EXPECT_LE(before + (long)(PAGES * PAGE / 1024), mlocked());
	EXPECT_EQ(0, wrong(self->at, PAGES, 1));
	ASSERT_EQ(0, munlock(self->at, PAGES * PAGE));
	/* And what is swapped is read when it is locked. */
	ASSERT_EQ(0, page_out(self->at, PAGES));
	ASSERT_EQ(0, mlock(self->at, PAGES * PAGE));
	EXPECT_EQ(0, wrong(self->at, PAGES, 1));
	EXPECT_EQ(0, count_adopted(self->at, PAGES));
	ASSERT_EQ(0, munlock(self->at, PAGES * PAGE));
	EXPECT_EQ(before, mlocked());
}

TEST_F(bypass, is_merged)
{
	long scans;
	int tries;

	if (access(KSM "run", W_OK))
		SKIP(return, "no KSM");
	memset(self->at, 4, PAGES * PAGE);
	ASSERT_EQ(PAGES, count_adopted(self->at, PAGES));
	ASSERT_EQ(0, madvise(self->at, PAGES * PAGE, MADV_MERGEABLE));
	EXPECT_EQ(0, count_adopted(self->at, PAGES));
	ASSERT_TRUE(put(KSM "pages_to_scan", "1000") && put(KSM "sleep_millisecs", "10"));
	scans = number_in(KSM "full_scans", "");
	ASSERT_TRUE(put(KSM "run", "1"));
	for (tries = 0; tries < 1000 && number_in(KSM "full_scans", "") < scans + 4; tries++)
		usleep(10000);
	EXPECT_LE(PAGES - 1, number_in(KSM "pages_sharing", ""));
	/* Swapped out and in, they are in RAM still. */
	ASSERT_TRUE(put(KSM "run", "2"));
	ASSERT_EQ(0, page_out(self->at, PAGES));
	EXPECT_EQ(4, self->at[0]);
	EXPECT_FALSE(adopted(self->at));
	ASSERT_TRUE(put(KSM "run", "0"));
}

TEST_F(bypass, is_moved_by_userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	char *from = small_pages(PAGES), *to = small_pages(PAGES);
	struct uffdio_register range = {
		.range = { (uintptr_t)to, PAGES * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	size_t i;

	ASSERT_LE(0, fd);
	ASSERT_TRUE(from && to);
	if (ioctl(fd, UFFDIO_API, &api))
		SKIP(return, "this kernel has no UFFDIO_MOVE");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &range));
	/* Half of them used where they lie, half as swap entries. */
	fill(from, PAGES, 8);
	ASSERT_EQ(0, page_out(from, PAGES));
	EXPECT_EQ(0, wrong(from, PAGES / 2, 8));
	EXPECT_EQ(PAGES / 2, count_adopted(from, PAGES));
	for (i = 0; i < PAGES; i++) {
		struct uffdio_move move = {
			.dst = (uintptr_t)to + i * PAGE,
			.src = (uintptr_t)from + i * PAGE,
			.len = PAGE,
		};

		while (ioctl(fd, UFFDIO_MOVE, &move))
			ASSERT_EQ(EAGAIN, errno);
	}
	EXPECT_EQ(PAGES / 2, count_adopted(to, PAGES));
	EXPECT_EQ(0, wrong(to, PAGES, 8));
	close(fd);
}

TEST_HARNESS_MAIN
