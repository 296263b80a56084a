/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hog: takes every CPU for good. One thread a CPU, pinned, at the highest real-time priority, with
 * the kernel's reserve for others switched off; each says so and never lets go.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void give_no_reserve(void)
{
	int fd = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY | O_CLOEXEC);

	/* A kernel without the limit has no file. */
	if (fd >= 0 && write(fd, "-1", 2) != 2)
		exit(1);
}

static void take(long cpu)
{
	struct sched_param priority = {.sched_priority = sched_get_priority_max(SCHED_FIFO)};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_FIFO, &priority))
		exit(1);
	for (;;)
		__asm__ volatile("pause");
}

static void *thread(void *cpu)
{
	take((long)cpu);
	return NULL;
}

int main(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	give_no_reserve();
	printf("hogging %ld\n", cpus);
	fflush(stdout);
	/* Time for the console to show it. */
	usleep(300000);
	for (long cpu = 1; cpu < cpus; cpu++) {
		pthread_t made;

		if (pthread_create(&made, NULL, thread, (void *)cpu))
			return 1;
	}
	take(0);
}
