/* SPDX-License-Identifier: Apache-2.0 */
/* How our own threads start: no signals, which are for Python's threads, and a small stack. */
#ifndef PYVMM_THREAD_H
#define PYVMM_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* A time from now on, for what waits by CLOCK_MONOTONIC. */
struct timespec thread_deadline(uint32_t milliseconds);

/* 0 or an errno. Of the name 15 bytes show, in /proc/PID/task. */
int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *opaque);

#endif
