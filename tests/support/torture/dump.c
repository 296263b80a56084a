/* SPDX-License-Identifier: Apache-2.0 */
/* A child with swapped pages dies; its core file must hold them. */
#include "region.h"
#include "scenario.h"

#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PARTS = 4, MOST_HEADERS = 64 };

static void child(struct region *region)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	setrlimit(RLIMIT_CORE, &limit);
	region_page_out(region);
	for (size_t i = 0; i < region->pages; i += 3)
		region_check(region, i);
	signal(SIGABRT, SIG_DFL);
	abort();
}

/* Where in the core file an address lies, or -1. */
static long offset_of(FILE *core, uintptr_t address)
{
	Elf64_Ehdr header;
	Elf64_Phdr part;

	if (fread(&header, sizeof(header), 1, core) != 1)
		return -1;
	for (int i = 0; i < header.e_phnum && i < MOST_HEADERS; i++) {
		if (fseek(core, (long)(header.e_phoff + (size_t)i * sizeof(part)), SEEK_SET) ||
		    fread(&part, sizeof(part), 1, core) != 1)
			return -1;
		if (part.p_type == PT_LOAD && address >= part.p_vaddr &&
		    address < part.p_vaddr + part.p_filesz)
			return (long)(part.p_offset + address - part.p_vaddr);
	}
	return -1;
}

static void compare(struct region *region, const char *path)
{
	FILE *core = fopen(path, "re");
	long offset;
	char copy[PAGE];

	need(region->job, core, path);
	offset = offset_of(core, (uintptr_t)region->at);
	if (offset < 0 || fseek(core, offset, SEEK_SET))
		bad(region->job, "the region is not in the core file");
	for (size_t i = 0; offset >= 0 && i < region->pages; i++) {
		need(region->job, fread(copy, PAGE, 1, core) == 1, "read of the core file");
		region_is(region, i, copy, "core file");
	}
	fclose(core);
}

void scenario_dump(struct job *job)
{
	struct region *region = region_make(job, job->pages / PARTS);
	uint64_t state = job->seed;
	char path[64];
	int status;

	need(job, put("/proc/sys/kernel/core_pattern", "/tmp/core-%p"), "core_pattern");
	region_fill(region);
	while (time_left(job)) {
		pid_t pid = make_child(job);

		if (!pid)
			child(region);
		need(job, waitpid(pid, &status, 0) == pid, "waitpid");
		if (!WIFSIGNALED(status) || !WCOREDUMP(status)) {
			bad(job, "the child left no core file, status %#x", status);
			return;
		}
		snprintf(path, sizeof(path), "/tmp/core-%d", pid);
		compare(region, path);
		unlink(path);
		for (size_t i = 0; i < region->pages; i++)
			region_step(region, &state);
	}
	region_verify(region);
	region_unmake(region);
}
