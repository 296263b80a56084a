/* SPDX-License-Identifier: Apache-2.0 */
/* The scenarios: each works until its job's time is over, and ends with a check of all it has. */
#ifndef TORTURE_SCENARIO_H
#define TORTURE_SCENARIO_H

#include "job.h"

/* Name, and what is done to pages while they are swapped. */
#define SCENARIOS(X)                                                                               \
	X(random, "read and written at random")                                                    \
	X(race, "threads fault on the same page, each with its own quarter of it")                 \
	X(drop, "let go by one thread while others fault on them")                                 \
	X(fork, "children of children share pages copy-on-write, while all of them write")         \
	X(advise, "madvise: DONTNEED, FREE, PAGEOUT, COLD, WILLNEED, POPULATE")                    \
	X(remap, "mremap: exchanged, moved away leaving nothing, shrunk and grown")                \
	X(protect, "mprotect, with faults where they belong")                                      \
	X(lock, "mlock, munlock, mlock on fault, mincore")                                         \
	X(map, "mapped, unmapped with holes, mapped again")                                        \
	X(peek, "read and written by others: process_vm_*, ptrace, /proc/PID/mem")                 \
	X(direct, "O_DIRECT from and into them")                                                   \
	X(uring, "io_uring, registered (pinned for long) and not")                                 \
	X(splice, "vmsplice into a pipe")                                                          \
	X(pipe, "held in pipes")                                                                   \
	X(zerocopy, "sent by UDP without a copy; needs a network card")                            \
	X(faultfd, "userfaultfd: missing and write-protected")                                     \
	X(merge, "merged by KSM")                                                                  \
	X(huge, "in huge pages, split, and collapsed again")                                       \
	X(collapse, "MADV_COLLAPSE over swapped pages, anonymous and in mappings of files")        \
	X(move, "userfaultfd: moved by UFFDIO_MOVE")                                               \
	X(group, "in a memory cgroup that swaps by its own limit")                                 \
	X(oom, "beside processes that the OOM killer ends")                                        \
	X(exec, "let go by exec")                                                                  \
	X(exit, "let go by exit and by SIGKILL")                                                   \
	X(swapoff, "the swap device is taken away and given back")                                 \
	X(shmem, "shared memory and tmpfs on the same device")                                     \
	X(dump, "in a core dump")                                                                  \
	X(stir, "compaction, dropped caches, page maps read, another reclaim")

#define DECLARE(name, text) void scenario_##name(struct job *job);
SCENARIOS(DECLARE)
#undef DECLARE

/* What a worker's child runs after exec: `pages` of memory filled and checked. */
int exec_hold(struct job *job);

#endif
