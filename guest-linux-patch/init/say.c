/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

static void make_line(char *text, size_t size, const char *format, va_list args)
{
	size_t used = strlen(text);

	vsnprintf(text + used, size - used - 1, format, args);
	strcat(text, "\n");
}

static bool write_log(const char *text)
{
	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (log < 0)
		return false;

	bool written = write(log, text, strlen(text)) >= 0;
	close(log);
	return written;
}

void say(const char *format, ...)
{
	char text[512] = "pyvmm init: ";
	va_list args;

	va_start(args, format);
	make_line(text, sizeof(text), format, args);
	va_end(args);
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		write_log(text);
}

void say_failed(const char *format, ...)
{
	/* A critical message is on the console with "quiet" too. */
	char text[512] = "<2>pyvmm init: failed: ";
	va_list args;

	va_start(args, format);
	make_line(text, sizeof(text), format, args);
	va_end(args);
	if (!write_log(text))
		(void)!write(STDERR_FILENO, text + 3, strlen(text + 3));
}
