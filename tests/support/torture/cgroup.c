/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"
#include "page.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"

enum { PATIENCE_S = 60, LOOK_MS = 100 };
/* Slots that were freed wait for others on each CPU, and are charged meanwhile:
 * SWAP_SLOTS_CACHE_SIZE. */
enum { FREED_SLOTS = 64 };

bool group_prepare(void)
{
	if (mount("cgroup2", ROOT, "cgroup2", 0, NULL) && errno != EBUSY)
		return false;
	return put(ROOT "/cgroup.subtree_control", "+memory");
}

static const char *file_of(struct group *group, const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", group->path, name);
	return path;
}

bool group_put(struct group *group, const char *file, const char *text)
{
	return put(file_of(group, file), text);
}

bool group_put_pages(struct group *group, const char *file, size_t pages)
{
	char text[32];

	snprintf(text, sizeof(text), "%zu", pages * PAGE);
	return group_put(group, file, text);
}

long group_get(struct group *group, const char *file, const char *word)
{
	return get(file_of(group, file), word);
}

struct group group_make(struct job *job)
{
	struct group group = {.job = job};

	snprintf(group.path, sizeof(group.path), ROOT "/torture-%u", job->number);
	need(job, !mkdir(group.path, 0755) || errno == EEXIST, group.path);
	need(job, group_get(&group, "memory.swap.current", NULL) >= 0, "memory.swap.current");
	return group;
}

void group_unmake(struct group *group)
{
	long left, most = FREED_SLOTS * sysconf(_SC_NPROCESSORS_ONLN) * (long)PAGE;
	double end = now() + PATIENCE_S;

	/* A page that was being written when its process ended stays in the swap cache. */
	while ((left = group_get(group, "memory.swap.current", NULL)) > most && now() < end) {
		group_put(group, "memory.reclaim", "64M");
		pause_ms(LOOK_MS);
	}
	if (left > most)
		bad(group->job, "%ld bytes of swap are charged to a group without processes", left);
	while (rmdir(group->path) && now() < end)
		pause_ms(LOOK_MS);
}

void group_enter(struct group *group)
{
	need(group->job, group_put(group, "cgroup.procs", "0"), "cgroup.procs");
}
