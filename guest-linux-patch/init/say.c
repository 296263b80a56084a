/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

void say(const char *format, ...)
{
	char text[512] = "pyvmm init: ";
	size_t used = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + used, sizeof(text) - used - 1, format, args);
	va_end(args);
	strcat(text, "\n");
	if (write(STDERR_FILENO, text, strlen(text)) >= 0)
		return;

	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (log >= 0) {
		(void)!write(log, text, strlen(text));
		close(log);
	}
}
