/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files, and all of a buffer. */
#ifndef INIT_FILE_H
#define INIT_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* A whole file in memory, with a zero byte after its end. NULL with errno set if that fails. */
char *read_file(const char *path, size_t *length);
/* Writes all of it; false when nobody reads any more. */
bool write_all(int fd, const char *data, size_t length);

#endif
