/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits on file descriptors and calls handlers: the place where a device moves its
 * data. It blocks every signal, so that signals meant for the program go to Python's threads.
 */
#ifndef PYVMM_IOTHREAD_H
#define PYVMM_IOTHREAD_H

#include <stdint.h>

/* cffi: begin */
struct iothread;

/* NULL and errno on failure. The name (15 bytes count) shows in /proc/PID/task. */
struct iothread *iothread_create(const char *name);

/* Ends the loop after the handler under way, joins the thread and frees it. Not from a handler. */
void iothread_destroy(struct iothread *thread);
/* cffi: end */

/* Watches. A watch's struct is the caller's and must live until iothread_del() came back. */
struct iothread_watch;
typedef void iothread_handler(struct iothread_watch *watch, uint32_t events);

struct iothread_watch {
	int fd;
	iothread_handler *handler;
	void *opaque;
};

/* `events` as in epoll_ctl(2), level-triggered unless EPOLLET. 0 or -errno. */
int iothread_add(struct iothread *thread, struct iothread_watch *watch, uint32_t events);
int iothread_mod(struct iothread *thread, struct iothread_watch *watch, uint32_t events);

/* After this returns, the handler is not running and will not run (may be called from a handler
 * too). */
int iothread_del(struct iothread *thread, struct iothread_watch *watch);

/* Runs fn(opaque) on the thread, between handlers, and waits for it. Directly if called on the
 * thread. */
void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque);

/* Eventfd helpers that cannot block. */
void eventfd_signal(int fd);
void eventfd_drain(int fd);

#endif
