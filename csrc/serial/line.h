/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The line that a serial port is plugged into: a ring of output with the host descriptor it drains
 * to, and a backlog of input with the descriptor it fills from, both moved by one thread.
 *
 * All functions but open and close are called with the port's lock held. The thread takes the same
 * lock, never while it reads or writes a descriptor.
 */
#ifndef PYVMM_SERIAL_LINE_H
#define PYVMM_SERIAL_LINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "host/iothread.h"
#include "host/terminal.h"

/* cffi: begin */
enum {
	SERIAL_RING = 65536,
	SERIAL_BACKLOG = 65536,
};

struct serial_config {
	int irq_fd;    /* eventfd, an edge each time an interrupt source appears; -1: polled only */
	int output_fd; /* -1: the log alone */
	int input_fd;  /* -1: none but serial_feed() */
	int quit_fd;   /* eventfd for ctrl-a x, or -1 */
	int escape;    /* filter the input for ctrl-a keys */
	int failed_fd; /* eventfd, signalled when the output takes no more; or -1 */
	int log_fd;    /* gets what the output gets; or -1 */
};
/* cffi: end */

/* Bytes that a port takes before its guest has read them. */
enum { SERIAL_FIFO = 16 };

/* Called on the line's thread, with the lock held, after output was written or input arrived. */
typedef void serial_line_changed(void *opaque);

struct serial_line {
	pthread_mutex_t *lock;
	serial_line_changed *changed;
	void *opaque;

	/* Byte n of the output is at ring[n % SERIAL_RING]; [written, sent) is still to be written.
	 */
	uint64_t sent, written;
	uint64_t lost;  /* of the written ones: the output was closed */
	bool open;      /* there is an output, and it takes bytes */
	bool pumping;   /* the thread will look at the ring by itself */
	bool blocked;   /* too little room for a FIFO's worth */
	bool unblocked; /* for the owner to see and reset: blocked ended */
	int output_error, log_error;

	/* Input likewise: [taken, given) waits for the guest. */
	uint64_t given, taken;
	uint64_t refused;
	bool paused; /* the thread stopped reading for want of room */
	bool resume; /* and may go on */

	/* The thread's own */
	struct iothread *thread;
	struct escape_filter filter;
	bool escape;
	bool output_socket, output_blocks;
	bool log_socket, log_blocks;
	bool output_is_log; /* the output itself has failed */
	bool output_watched;
	bool input_polled; /* files are not: they are always ready */
	int kick_fd, timer_fd;
	int log_fd, failed_fd;
	struct iothread_watch kick, timer, output, input;

	uint8_t ring[SERIAL_RING];
	uint8_t backlog[SERIAL_BACKLOG + SERIAL_FIFO];
};

/* 0 or -errno; nothing is left behind then. */
int serial_line_open(struct serial_line *line, const struct serial_config *config,
                     pthread_mutex_t *lock, serial_line_changed *changed, void *opaque);

/* As iothread_stop(); then close. */
int serial_line_stop(struct serial_line *line, uint32_t milliseconds);
void serial_line_close(struct serial_line *line);

/* Output. Not to be put to while full. */
bool serial_line_full(const struct serial_line *line);
void serial_line_put(struct serial_line *line, uint8_t byte);
void serial_line_flush(struct serial_line *line);
uint64_t serial_line_tail(const struct serial_line *line, uint8_t *buffer, uint64_t length);

/* Input. */
bool serial_line_take(struct serial_line *line, uint8_t *byte);
/* Puts bytes that were taken, at most SERIAL_FIFO of them since the last was kept, in front again.
 */
void serial_line_return(struct serial_line *line, const uint8_t *bytes, uint64_t length);
uint64_t serial_line_give(struct serial_line *line, const uint8_t *bytes, uint64_t length);
uint64_t serial_line_waiting(const struct serial_line *line);

#endif
