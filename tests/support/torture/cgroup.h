/* SPDX-License-Identifier: Apache-2.0 */
/* Memory cgroups, version 2, directly below the root. */
#ifndef TORTURE_CGROUP_H
#define TORTURE_CGROUP_H

#include "job.h"

struct group {
	struct job *job;
	char path[128];
};

struct group group_make(struct job *job);
/* Waits until its swap is given back, which it has to be once its processes are gone. */
void group_unmake(struct group *group);

bool group_put(struct group *group, const char *file, const char *text);
bool group_put_pages(struct group *group, const char *file, size_t pages);
long group_get(struct group *group, const char *file, const char *word);
/* The calling process moves in. */
void group_enter(struct group *group);

/* Before any worker: mounts the file system, and switches the memory controller on. */
bool group_prepare(void);

#endif
