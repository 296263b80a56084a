/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A serial port (National PC16550D data sheet) with a host descriptor on either side.
 *
 * The guest's bytes go into a ring on the vCPU's thread and from there to the output descriptor on
 * the port's own thread. The ring doubles as the log: it always holds the last SERIAL_RING bytes.
 */
#ifndef PYVMM_SERIAL_SERIAL_H
#define PYVMM_SERIAL_SERIAL_H

#include <stdint.h>

#include "machine/bus.h"
#include "serial/line.h"

/* cffi: begin */
enum {
	SERIAL_PORTS = 8,
};

struct serial_stats {
	uint64_t accesses;   /* register accesses by the guest */
	uint64_t interrupts; /* edges raised */
	uint64_t sent;       /* bytes the guest wrote */
	uint64_t written;    /* of them, given to the output (all of them where there is none) */
	uint64_t dropped;    /* of them, lost: output closed, or written to a full transmitter */
	uint64_t received;   /* bytes the guest read */
	uint64_t waiting;    /* bytes of input the guest has not read yet */
	uint64_t refused;    /* bytes typed and lost while the guest took none */
	uint64_t overruns;   /* bytes lost in loopback mode */
	int output_error;    /* the errno with which the output ended, or 0 */
	int log_error;       /* likewise the log */
};

struct serial;

/* Keeps no descriptor of output_fd and input_fd but duplicates. NULL and errno on failure. */
struct serial *serial_create(const struct serial_config *config);

/* Stops the thread: 0, or -ETIMEDOUT where the host holds up a read or a write of it for longer.
 * Output not yet written is lost (serial_drain() first). */
int serial_stop(struct serial *serial, uint32_t timeout_ms);

/* Stops it for as long as that takes, and frees. */
void serial_destroy(struct serial *serial);

/* A bus_handler over SERIAL_PORTS ports; opaque is the struct serial. */
int serial_access(void *opaque, struct bus_access *access);

/* Input as if it came from the line: the number of bytes taken, less than length when full. */
uint64_t serial_feed(struct serial *serial, const uint8_t *bytes, uint64_t length);

/* The newest bytes the guest sent, at most length and SERIAL_RING; the number copied. */
uint64_t serial_tail(struct serial *serial, uint8_t *buffer, uint64_t length);

/* Waits until what the guest has sent so far is written: 0 or -ETIMEDOUT. */
int serial_drain(struct serial *serial, uint32_t timeout_ms);

void serial_get_stats(struct serial *serial, struct serial_stats *stats);
/* cffi: end */

#endif
