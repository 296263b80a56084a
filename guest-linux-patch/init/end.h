/* SPDX-License-Identifier: Apache-2.0 */
/* The end of the machine, and with which status. */
#ifndef INIT_END_H
#define INIT_END_H

#include "say.h"

#define STATUS_INIT_FAILED    125
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND      127
#define STATUS_SIGNAL         128

/* Leaves everything clean and ends the machine. */
void finish(int status) __attribute__((noreturn));

#define fail(...)                                                                                  \
	do {                                                                                       \
		say_failed(__VA_ARGS__);                                                           \
		finish(STATUS_INIT_FAILED);                                                        \
	} while (0)

#endif
