/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a console: the escape keys of the person at the keyboard, and descriptors that
 * an I/O thread can use without ever blocking.
 */
#ifndef PYVMM_HOST_TERMINAL_H
#define PYVMM_HOST_TERMINAL_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
/* Keys after ctrl-a: x ends the VM, ctrl-a sends one ctrl-a, h or ? prints help. Anything else is
 * passed through together with its ctrl-a. */
struct escape_filter {
	int quit_fd; /* eventfd that ctrl-a x signals; -1: ctrl-a x is an unknown key */
	int help_fd; /* where the help text goes; -1: nowhere */
	int pending; /* a ctrl-a was seen and waits for the next key */
};

void escape_filter_init(struct escape_filter *filter, int quit_fd, int help_fd);

/* Filters input in place and returns what is left. May give back a ctrl-a that an earlier call
 * withheld, so the buffer must have room for length + 1 bytes. */
size_t escape_filter(struct escape_filter *filter, uint8_t *buffer, size_t length);

/* A descriptor of our own for the same file that does not block: terminals and pipes are opened
 * anew, because O_NONBLOCK on a duplicate would change them for every process that shares them.
 * Where that is not possible (sockets, files, no /proc) it is a plain duplicate.
 * `access` is O_RDONLY or O_WRONLY. -errno on failure. */
int terminal_dup(int fd, int access);
/* cffi: end */

#endif
