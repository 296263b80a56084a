/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process reads and writes the memory of its stopped child, which checks what it finds when it
 * goes on. The table of versions is shared by both.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURNS = 30, STEPS = 60 };

struct peek {
	struct region *region;
	pid_t child;
	int memory; /* /proc/CHILD/mem */
};

static void share_versions(struct region *region)
{
	size_t bytes = region->pages * sizeof(*region->versions);

	need(region->job, !munmap(region->versions, bytes), "munmap");
	region->versions =
	        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	need(region->job, region->versions != MAP_FAILED, "mmap");
}

/* Stopped after each turn of work, and at last over. */
static void child(struct region *region)
{
	uint64_t state = region->job->seed ^ 0x5555;

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	region_fill(region);
	for (int turn = 0; turn < TURNS && time_left(region->job); turn++) {
		region_page_out(region);
		raise(SIGSTOP);
		region_verify(region);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	_exit(0);
}

static void *place(struct peek *peek, size_t i)
{
	return region_page(peek->region, i);
}

static void read_by_call(struct peek *peek, size_t i)
{
	char copy[PAGE];
	struct iovec to = {copy, PAGE}, from = {place(peek, i), PAGE};

	if (process_vm_readv(peek->child, &to, 1, &from, 1, 0) != (ssize_t)PAGE)
		bad(peek->region->job, "process_vm_readv: %m");
	else
		region_is(peek->region, i, copy, "process_vm_readv");
}

static void write_by_call(struct peek *peek, size_t i)
{
	char copy[PAGE];
	struct iovec from = {copy, PAGE}, to = {place(peek, i), PAGE};

	peek->region->versions[i]++;
	stamp(copy, PAGE, region_tag(peek->region, i));
	if (process_vm_writev(peek->child, &from, 1, &to, 1, 0) != (ssize_t)PAGE)
		bad(peek->region->job, "process_vm_writev: %m");
}

static void read_by_file(struct peek *peek, size_t i)
{
	char copy[PAGE];

	if (pread(peek->memory, copy, PAGE, (off_t)(uintptr_t)place(peek, i)) != (ssize_t)PAGE)
		bad(peek->region->job, "read of /proc/PID/mem: %m");
	else
		region_is(peek->region, i, copy, "/proc/PID/mem");
}

static void write_by_file(struct peek *peek, size_t i)
{
	char copy[PAGE];

	peek->region->versions[i]++;
	stamp(copy, PAGE, region_tag(peek->region, i));
	if (pwrite(peek->memory, copy, PAGE, (off_t)(uintptr_t)place(peek, i)) != (ssize_t)PAGE)
		bad(peek->region->job, "write of /proc/PID/mem: %m");
}

/* Word by word: a whole page of them, read and written back changed. */
static void by_ptrace(struct peek *peek, size_t i)
{
	uint64_t copy[PAGE / 8];
	char *at = place(peek, i);

	for (size_t word = 0; word < PAGE / 8; word++)
		copy[word] = (uint64_t)ptrace(PTRACE_PEEKDATA, peek->child, at + word * 8, NULL);
	region_is(peek->region, i, copy, "PTRACE_PEEKDATA");
	peek->region->versions[i]++;
	stamp(copy, PAGE, region_tag(peek->region, i));
	for (size_t word = 0; word < PAGE / 8; word++)
		if (ptrace(PTRACE_POKEDATA, peek->child, at + word * 8, copy[word]))
			bad(peek->region->job, "PTRACE_POKEDATA: %m");
}

static void visit(struct peek *peek, uint64_t *state)
{
	static void (*const ways[])(struct peek *, size_t) = {read_by_call, write_by_call,
	                                                      read_by_file, write_by_file};

	for (int i = 0; i < STEPS; i++)
		ways[below(state, 4)](peek, below(state, peek->region->pages));
	by_ptrace(peek, below(state, peek->region->pages));
}

static void one_child(struct region *region, uint64_t *state)
{
	struct peek peek = {.region = region};
	char path[64];
	int status;

	memset(region->versions, 0, region->pages * sizeof(*region->versions));
	need(region->job, !process_vm_readv(getpid(), NULL, 0, NULL, 0, 0), "process_vm_readv");
	peek.child = make_child(region->job);
	if (!peek.child)
		child(region);
	snprintf(path, sizeof(path), "/proc/%d/mem", peek.child);
	peek.memory = open(path, O_RDWR | O_CLOEXEC);
	need(region->job, peek.memory >= 0, path);
	while (waitpid(peek.child, &status, 0) == peek.child && WIFSTOPPED(status)) {
		if (WSTOPSIG(status) == SIGSTOP)
			visit(&peek, state);
		need(region->job,
		     !ptrace(PTRACE_CONT, peek.child, NULL,
		             WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status)),
		     "PTRACE_CONT");
	}
	if (status)
		bad(region->job, "the child ended with status %#x", status);
	close(peek.memory);
}

void scenario_peek(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;

	share_versions(region);
	while (time_left(job))
		one_child(region, &state);
	region_unmake(region);
}
