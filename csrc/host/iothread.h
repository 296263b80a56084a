/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits on file descriptors and calls handlers: the place where a device moves its
 * data. It blocks every signal, so that signals meant for the program go to Python's threads.
 */
#ifndef PYVMM_HOST_IOTHREAD_H
#define PYVMM_HOST_IOTHREAD_H

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
struct iothread;

/* NULL and errno on failure. The name (15 bytes count) shows in /proc/PID/task. */
struct iothread *iothread_create(const char *name);

/* Ends the loop after the handler under way: 0, or -ETIMEDOUT where that handler is not through by
 * then, as the host may hold up a system call for as long as it likes. That may be tried again.
 * Afterwards calls are made on the caller's own thread. Not from a handler. */
int iothread_stop(struct iothread *thread, uint32_t milliseconds);

/* The same with no limit, and frees it. */
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
 * thread, or once that was stopped. */
void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque);

/* The same in a hurry: handlers are told (iothread_is_wanted()), and the wait ends when
 * give_up(who) says so, which is asked every few milliseconds. 0, or -ECANCELED: fn may still be
 * running, so that what it uses must live as long as the thread. */
typedef bool iothread_give_up(const void *who);
int iothread_call_unless(struct iothread *thread, void (*fn)(void *opaque), void *opaque,
                         iothread_give_up *give_up, const void *who);

/* For a handler with much to do: whether somebody in a hurry waits for it to come to an end. */
bool iothread_is_wanted(const struct iothread *thread);

/* Eventfd helpers that cannot block. */
void eventfd_signal(int fd);
void eventfd_drain(int fd);

#endif
