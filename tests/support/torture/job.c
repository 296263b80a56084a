/* SPDX-License-Identifier: Apache-2.0 */
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_LINES = 20 };

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

bool time_left(const struct job *job)
{
	return now() < job->end;
}

void pause_ms(long ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

/* In one write, so that lines of several processes do not mix. */
static void print(const struct job *job, const char *word, const char *format, va_list args)
{
	char line[512];
	int used = snprintf(line, sizeof(line), "%s %s %u: ", word, job->name, job->number);

	used += vsnprintf(line + used, sizeof(line) - 1 - (size_t)used, format, args);
	if (used > (int)sizeof(line) - 2)
		used = sizeof(line) - 2;
	line[used++] = '\n';
	(void)!write(STDOUT_FILENO, line, (size_t)used);
}

void bad(struct job *job, const char *format, ...)
{
	va_list args;

	atomic_fetch_add(&job->tally->bad, 1);
	if (atomic_fetch_add(&job->tally->lines, 1) >= MOST_LINES)
		return;
	va_start(args, format);
	print(job, "BAD", format, args);
	va_end(args);
}

void die(const struct job *job, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(job, "CANNOT", format, args);
	va_end(args);
	_exit(2);
}

pid_t make_child(const struct job *job)
{
	pid_t pid = fork();

	need(job, pid >= 0, "fork");
	return pid;
}

void end_child(struct job *job, pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		need(job, errno == EINTR, "waitpid");
	if (status)
		bad(job, "child %d ended with status %#x", pid, status);
}

bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t done;

	if (fd < 0)
		return false;
	done = write(fd, text, strlen(text));
	close(fd);
	return done == (ssize_t)strlen(text);
}

long get(const char *path, const char *word)
{
	FILE *file = fopen(path, "re");
	char line[256];
	long value = -1;

	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file)) {
		if (!word)
			value = strtol(line, NULL, 10);
		else if (!strncmp(line, word, strlen(word)))
			value = strtol(line + strlen(word), NULL, 10);
	}
	fclose(file);
	return value;
}
