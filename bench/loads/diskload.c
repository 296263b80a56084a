/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in the guest: O_DIRECT reads and writes on a disk, sequential in 256 KiB and random in 4
 * KiB, at queue depth 1 and with several threads. Prints "name seconds bytes" lines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct job {
	int fd;
	int write;
	size_t block;
	uint64_t count, disk;
	uint64_t seed; /* 0: sequential from the start */
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void *work(void *opaque)
{
	struct job job = *(struct job *)opaque;
	void *buffer;

	if (posix_memalign(&buffer, 4096, job.block))
		exit(3);
	memset(buffer, 0x5a, job.block);
	for (uint64_t i = 0; i < job.count; i++) {
		uint64_t block = job.seed ? next(&job.seed) : i;
		off_t at = (off_t)(block % (job.disk / job.block) * job.block);
		ssize_t done = job.write ? pwrite(job.fd, buffer, job.block, at)
		                         : pread(job.fd, buffer, job.block, at);

		if (done != (ssize_t)job.block) {
			fprintf(stderr, "short transfer at %lld: %s\n", (long long)at,
			        strerror(errno));
			exit(4);
		}
	}
	free(buffer);
	return NULL;
}

static void run(const char *name, struct job job, int threads)
{
	pthread_t ids[8];
	struct job jobs[8];
	double start = now();

	for (int i = 0; i < threads; i++) {
		jobs[i] = job;
		if (job.seed)
			jobs[i].seed = job.seed + (uint64_t)i * 7919;
		pthread_create(&ids[i], NULL, work, &jobs[i]);
	}
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	printf("@@%s %.6f %llu\n", name, now() - start,
	       (unsigned long long)(job.count * job.block * threads));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	uint64_t scale = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	int fd = open(argc > 1 ? argv[1] : "/dev/vda", O_RDWR | O_DIRECT);
	off_t size;

	if (fd < 0) {
		perror("open");
		return 2;
	}
	size = lseek(fd, 0, SEEK_END);
	run("warm-up", (struct job){fd, 0, 256 << 10, 64, size, 0}, 1);
	run("sequential-read", (struct job){fd, 0, 256 << 10, 256 * scale, size, 0}, 1);
	run("sequential-write", (struct job){fd, 1, 256 << 10, 256 * scale, size, 0}, 1);
	run("random-read-4k", (struct job){fd, 0, 4096, 1000 * scale, size, 88172645463325252ULL},
	    1);
	run("random-write-4k", (struct job){fd, 1, 4096, 1000 * scale, size, 88172645463325252ULL},
	    1);
	run("random-read-4k-x4", (struct job){fd, 0, 4096, 500 * scale, size, 1234567ULL}, 4);
	return 0;
}
