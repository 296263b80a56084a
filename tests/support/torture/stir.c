/* SPDX-License-Identifier: Apache-2.0 */
/* What else walks pages and moves them, done all the time beside a little memory of its own. */
#include "region.h"
#include "scenario.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 64, MOST_BYTES = 1 << 20 };

static void read_file(const char *path)
{
	static char buffer[1 << 16];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		return;
	for (size_t all = 0; all < MOST_BYTES && (got = read(fd, buffer, sizeof(buffer))) > 0;)
		all += (size_t)got;
	close(fd);
}

static void read_processes(void)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	char path[300];

	while (folder && (entry = readdir(folder))) {
		if (atoi(entry->d_name) <= 1)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/smaps", entry->d_name);
		read_file(path);
		snprintf(path, sizeof(path), "/proc/%s/clear_refs", entry->d_name);
		put(path, "1");
	}
	if (folder)
		closedir(folder);
}

static void once(uint64_t *state)
{
	switch (below(state, 6)) {
	case 0:
		put("/proc/sys/vm/compact_memory", "1");
		break;
	case 1:
		put("/proc/sys/vm/drop_caches", "3");
		break;
	case 2:
		read_file("/proc/kpageflags");
		read_file("/proc/kpagecount");
		break;
	case 3:
		/* Kernels without it have no such file. */
		put("/sys/kernel/mm/lru_gen/enabled", below(state, 2) ? "y" : "n");
		break;
	default:
		read_processes();
	}
}

void scenario_stir(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	uint64_t state = job->seed;

	region_fill(region);
	while (time_left(job)) {
		once(&state);
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	region_verify(region);
	put("/sys/kernel/mm/lru_gen/enabled", "n");
	region_unmake(region);
}
