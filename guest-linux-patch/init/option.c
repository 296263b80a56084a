/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "end.h"
#include "option.h"

static char cmdline[4096];

void read_cmdline(void)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("cannot open /proc/cmdline: %s", strerror(errno));

	ssize_t got = read(fd, cmdline, sizeof(cmdline) - 1);
	close(fd);
	if (got < 0)
		fail("cannot read /proc/cmdline: %s", strerror(errno));
	cmdline[got] = '\0';
}

bool option(const char *name, char *value, size_t size)
{
	const size_t length = strlen(name);
	bool found = false;

	for (const char *word = cmdline; *word;) {
		size_t end = strcspn(word, " \n");
		if (end > length && !strncmp(word, name, length) && word[length] == '=') {
			snprintf(value, size, "%.*s", (int)(end - length - 1), word + length + 1);
			found = true;
		}
		word += end;
		word += strspn(word, " \n");
	}
	return found;
}

bool option_is(const char *name, const char *wanted)
{
	char value[64];

	return option(name, value, sizeof(value)) && !strcmp(value, wanted);
}
