/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a program, writes down each of its KVM ioctls: which, when it began, when it ended
 * and how. So the steps of a symcall are timed in the very code that users run, with nothing
 * compiled into it.
 *
 * IOCTL_CLOCK names the file that the records go to when the program ends; there is room for
 * IOCTL_CLOCK_RECORDS of them, later ones are dropped. The program may look at them itself and
 * begin anew: ioctl_clock_records(), ioctl_clock_count(), ioctl_clock_reset().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { KVM_LETTER = 0xAE };

struct record {
	uint64_t begin, end; /* CLOCK_MONOTONIC, nanoseconds */
	uint32_t request;
	int32_t result; /* or -errno */
	int32_t thread;
	int32_t fd;
};

const void *ioctl_clock_records(void);
uint64_t ioctl_clock_count(void);
void ioctl_clock_reset(void);

static struct record *records;
static uint64_t room, used;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ULL + time.tv_nsec;
}

__attribute__((constructor)) static void make_room(void)
{
	const char *wanted = getenv("IOCTL_CLOCK_RECORDS");

	room = wanted ? strtoull(wanted, NULL, 0) : 100000;
	records = getenv("IOCTL_CLOCK") ? calloc(room, sizeof(*records)) : NULL;
	/* Touched now, so that no page fault is timed later. */
	for (uint64_t i = 0; records && i < room; i += 64)
		*(volatile uint64_t *)&records[i].begin = 0;
}

__attribute__((destructor)) static void write_records(void)
{
	const char *name = getenv("IOCTL_CLOCK");
	uint64_t count = ioctl_clock_count();
	FILE *file = records && name && *name ? fopen(name, "wb") : NULL;

	if (!file)
		return;
	if (fwrite(records, sizeof(*records), count, file) != count)
		fprintf(stderr, "ioctl_clock: %s is not complete\n", name);
	fclose(file);
}

const void *ioctl_clock_records(void)
{
	return records;
}

uint64_t ioctl_clock_count(void)
{
	uint64_t count = __atomic_load_n(&used, __ATOMIC_ACQUIRE);

	return count < room ? count : room;
}

void ioctl_clock_reset(void)
{
	__atomic_store_n(&used, 0, __ATOMIC_RELEASE);
}

static __thread int32_t thread;

int ioctl(int fd, unsigned long request, ...)
{
	uint64_t begin, at;
	va_list list;
	void *argument;
	long result;
	int error;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (!records || _IOC_TYPE(request) != KVM_LETTER)
		return (int)syscall(SYS_ioctl, fd, request, argument);
	if (!thread)
		thread = (int32_t)syscall(SYS_gettid);
	begin = now();
	result = syscall(SYS_ioctl, fd, request, argument);
	error = errno;
	at = __atomic_fetch_add(&used, 1, __ATOMIC_RELAXED);
	if (at < room)
		records[at] = (struct record){
		        .begin = begin,
		        .end = now(),
		        .request = (uint32_t)request,
		        .result = (int32_t)(result < 0 ? -error : result),
		        .thread = thread,
		        .fd = fd,
		};
	errno = error;
	return (int)result;
}
