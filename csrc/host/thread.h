/* SPDX-License-Identifier: Apache-2.0 */
/* How our own threads start: no signals, which are for Python's threads, and a small stack. */
#ifndef PYVMM_HOST_THREAD_H
#define PYVMM_HOST_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* A time from now on, for what waits by CLOCK_MONOTONIC. */
struct timespec thread_deadline(uint32_t milliseconds);
/* Takes a mutex, by such a time: 0, ETIMEDOUT or another errno. */
int thread_lock_until(pthread_mutex_t *mutex, const struct timespec *until);

/* cffi: begin */
/*
 * Gives the calling thread's stack pages of 4 KiB, and back what a huge page at its top took: 2 MiB
 * for the few KiB that are used, where the host gives them unasked (kernels before 6.7, which know
 * MAP_STACK).
 */
void thread_use_small_pages(void);
/* cffi: end */

/* 0 or an errno. Of the name 15 bytes show, in /proc/PID/task. */
int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *opaque);

#endif
