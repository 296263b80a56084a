/* SPDX-License-Identifier: Apache-2.0 */
/* Options on the kernel command line. */
#ifndef INIT_OPTION_H
#define INIT_OPTION_H

#include <stdbool.h>
#include <stddef.h>

void read_cmdline(void);
/* The value of name=value, copied; the last one wins. False if the option is not there. */
bool option(const char *name, char *value, size_t size);
bool option_is(const char *name, const char *wanted);

#endif
