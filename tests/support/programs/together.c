/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to the port given from CPU 0 and from CPU 1 at the same time. Neither needs the other to
 * get there, once both run: each has a thread of its own that nothing else of the CPU comes before.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <sys/mman.h>

static atomic_int there;
static unsigned short port;

static void must(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

static void *write_from(void *argument)
{
	const struct sched_param first = {.sched_priority = 1};
	int cpu = (int)(intptr_t)argument;
	cpu_set_t where;

	CPU_ZERO(&where);
	CPU_SET(cpu, &where);
	must(sched_setaffinity(0, sizeof(where), &where), "sched_setaffinity");
	must(sched_setscheduler(0, SCHED_FIFO, &first), "sched_setscheduler");
	atomic_fetch_add(&there, 1);
	while (atomic_load(&there) < 2)
		;
	outb('x', port);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];

	must(argc != 2, "usage: together PORT");
	port = (unsigned short)atoi(argv[1]);
	must(mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall");
	must(ioperm(port, 1, 1), "ioperm");
	for (intptr_t cpu = 0; cpu < 2; cpu++)
		must(pthread_create(&threads[cpu], NULL, write_from, (void *)cpu),
		     "pthread_create");
	for (int cpu = 0; cpu < 2; cpu++)
		pthread_join(threads[cpu], NULL);
	return 0;
}
