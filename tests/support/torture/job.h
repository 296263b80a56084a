/* SPDX-License-Identifier: Apache-2.0 */
/* One worker of one scenario: what it was asked for, and what it found. */
#ifndef TORTURE_JOB_H
#define TORTURE_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Locked memory that a worker shares with all processes and threads it makes. */
struct tally {
	atomic_ulong written, checked, bad;
	atomic_uint lines, lineages;
};

struct job {
	const char *name;
	unsigned number; /* of this worker among all: the owner in its tags */
	size_t pages;    /* how many it may have at once, children included */
	uint64_t seed;
	double end;              /* of the work, in seconds of now() */
	const char *disk;        /* a block device to write to, or NULL */
	unsigned long disk_from; /* first page of it that is this worker's */
	const char *swap;        /* a swap device to take away and give back, or NULL */
	struct tally *tally;
};

/* Monotonic seconds. */
double now(void);

/* Whether there is time for another round. */
bool time_left(const struct job *job);

void pause_ms(long ms);

/* Counts a wrong page or a wrong answer, and prints it unless there were too many already. */
void bad(struct job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the worker: what the scenario needs is not there. Status 2. */
void die(const struct job *job, const char *format, ...)
        __attribute__((noreturn, format(printf, 2, 3)));

/* die() with errno's text unless the condition holds. */
#define need(job, condition, what)                                                                 \
	do {                                                                                       \
		if (!(condition))                                                                  \
			die(job, "%s: %m", what);                                                  \
	} while (0)

/* fork() that dies when it fails. The child must not come back: it ends by _exit(). */
pid_t make_child(const struct job *job);

/* Waits for a child and counts one that did not end with status 0. */
void end_child(struct job *job, pid_t pid);

/* Writes a text to a file of /sys or /proc; false with errno. */
bool put(const char *path, const char *text);

/* The number in a file, or after the word in one of its lines; -1 if there is none. */
long get(const char *path, const char *word);

#endif
