/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands for the host under a target: descriptors are rows of a table, and every system call that
 * the engine makes on one is answered here, as the input wants it: in part, not now, or with an
 * error. Nothing takes time, and the same input always does the same.
 *
 * The compiler puts this file before each file of the engine that a target is made of.
 */
#ifndef FUZZ_HOST_H
#define FUZZ_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum host_kind {
	HOST_NONE,
	HOST_EVENT, /* an eventfd or a timer */
	HOST_PIPE,  /* these three carry a stream */
	HOST_SOCKET,
	HOST_FILE,
	HOST_TAP,
	HOST_DISK,
};

enum {
	HOST_DISK_BYTES = 128 * 512,
	HOST_LINE_BYTES = 4096, /* what waits to be read from a stream or a tap, at most */
};

/* Forgets all descriptors and what was to happen. */
void host_reset(void);

/* A new descriptor. */
int host_make(enum host_kind kind);

/* What can be read from a stream from now on, or a frame to come from a tap. */
void host_send(int fd, const void *bytes, size_t length);
/* Nothing more will come. */
void host_end(int fd);
/* Bytes that an output takes before it is full. */
void host_set_room(int fd, size_t bytes);

/* What the next system calls come to, a byte each; 0 or none left is success. */
void host_outcomes(const uint8_t *bytes, size_t count);

/* The guest writes to its memory while the device works: at the nth moment from now on. */
void host_race(uint32_t moment, uint8_t *where, const uint8_t *bytes, size_t length);
/* Such a moment. */
void host_moment(void);

/* Memory is gone (host/guard.h) for the nth copy from now on. */
void host_lose(uint8_t moment);

/* Of the handlers that ask whether somebody is in a hurry, the nth from now on is told so. */
void host_hurry(uint8_t moment);

/* Who waits for the I/O thread next, and may, gives that up: what it asked for comes later if `how`
 * is odd, and never if not. */
void host_give_up(uint8_t how);

/* For host/iothread.h without a thread: the events that are up, and how often they came up. */
uint32_t host_ready(int fd);
uint64_t host_edges(int fd);

/* Serves what is ready until nothing is. Each execution must come to that. */
struct iothread;
void iothread_turn(struct iothread *thread);

ssize_t host_read(int fd, void *to, size_t bytes);
ssize_t host_write(int fd, const void *from, size_t bytes);
ssize_t host_recv(int fd, void *to, size_t bytes, int flags);
ssize_t host_send_flags(int fd, const void *from, size_t bytes, int flags);
ssize_t host_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t host_readv(int fd, const struct iovec *iov, int count);
ssize_t host_writev(int fd, const struct iovec *iov, int count);
ssize_t host_preadv(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t host_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int host_fallocate(int fd, int mode, off_t offset, off_t length);
int host_fdatasync(int fd);
int host_poll(struct pollfd *fds, nfds_t count, int timeout);
int host_fstat(int fd, struct stat *status);
int host_fcntl(int fd, int command, ...);
int host_open(const char *path, int flags, ...);
int host_close(int fd);
int host_isatty(int fd);
int host_eventfd(unsigned int count, int flags);
int host_timerfd_create(int clock, int flags);
int host_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old);
int host_ioctl(int fd, unsigned long request, ...);
int host_clock_gettime(clockid_t clock, struct timespec *now);
int host_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);
ssize_t host_getrandom(void *to, size_t bytes, unsigned int flags);
pid_t host_tcgetpgrp(int fd);

#ifndef FUZZ_HOST_ITSELF
#define read                   host_read
#define write                  host_write
#define recv                   host_recv
#define send                   host_send_flags
#define sendmsg                host_sendmsg
#define readv                  host_readv
#define writev                 host_writev
#define preadv                 host_preadv
#define pwritev2               host_pwritev2
#define fallocate              host_fallocate
#define fdatasync              host_fdatasync
#define poll                   host_poll
#define fstat                  host_fstat
#define fcntl                  host_fcntl
#define open                   host_open
#define close                  host_close
#define isatty                 host_isatty
#define eventfd                host_eventfd
#define timerfd_create         host_timerfd_create
#define timerfd_settime        host_timerfd_settime
#define ioctl                  host_ioctl
#define clock_gettime          host_clock_gettime
#define pthread_cond_timedwait host_cond_timedwait
#define getrandom              host_getrandom
#define tcgetpgrp              host_tcgetpgrp
#endif

#endif
