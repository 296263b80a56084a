/* SPDX-License-Identifier: Apache-2.0 */
/* The port to the host: frames in and out. What they mean is in protocol.py. */
#ifndef LAB_PORT_H
#define LAB_PORT_H

#include <stddef.h>
#include <stdint.h>

#define CHUNK      16384 /* the most that one frame to the host carries */
#define STDIN_ROOM 65536 /* protocol.STDIN_WINDOW */

enum frame {
	/* from the host */
	F_SETUP = 'S',
	F_RUN = 'R',
	F_STDIN = 'I',
	F_WINSIZE = 'W',
	F_END = 'Q',
	/* to the host */
	F_HELLO = 'H',
	F_READY = 'Y',
	F_OUT = 'O',
	F_ERR = 'E',
	F_CREDIT = 'C',
	F_EXIT = 'X',
	F_FAIL = 'F',
	F_BYE = 'B',
};

/* Opens the port and waits until the host is at its other end. */
void port_open(void);
/* For poll(2). */
int port_descriptor(void);

void send_frame(enum frame type, const void *payload, uint32_t length);
void read_header(char *type, uint32_t *length);
/* The payload and a zero byte behind it; the caller frees it. */
char *read_payload(uint32_t length);

/* The next of the zero-terminated strings that make up a payload. */
char *next_string(char **at, const char *end);
int next_number(char **at, const char *end);

/* Tells the host why, on the port and on the console, and ends the machine. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void power_off(void) __attribute__((noreturn));

#endif
