/* SPDX-License-Identifier: Apache-2.0 */
#include "host/memory.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 8192 };

/* The file's beginning as a string; false if there is none. */
static bool read_text(const char *path, char text[TEXT])
{
	size_t done = 0;
	ssize_t got = 0;
	int fd = *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return false;
	do {
		got = read(fd, text + done, TEXT - 1 - done);
		if (got > 0)
			done += (size_t)got;
	} while ((got > 0 && done < TEXT - 1) || (got < 0 && errno == EINTR));
	close(fd);
	text[done] = '\0';
	return got >= 0;
}

static bool read_of_group(const char *group, const char *name, char text[TEXT])
{
	char path[PATH_MAX];
	int length = snprintf(path, sizeof(path), "%s/%s", group, name);

	return *group && length > 0 && (size_t)length < sizeof(path) && read_text(path, text);
}

/* The number after a word that begins a line. */
static bool number_after(const char *text, const char *word, uint64_t *number)
{
	size_t length = strlen(word);
	char *end;

	while (text) {
		if (!strncmp(text, word, length)) {
			const char *digits = text + length + strspn(text + length, " \t");

			errno = 0;
			*number = strtoull(digits, &end, 10);
			return isdigit((unsigned char)*digits) && end != digits && !errno;
		}
		text = strchr(text, '\n');
		text = text ? text + 1 : NULL;
	}
	return false;
}

/* "some avg10=12.34 ..." as 1234. */
static int64_t stall_of(const char *text)
{
	const char *at = strstr(text, "some avg10=");
	unsigned int whole, hundredths;

	if (!at || sscanf(at, "some avg10=%3u.%2u", &whole, &hundredths) != 2)
		return -1;
	return (int64_t)whole * 100 + hundredths;
}

static void take_stall(struct hostmemory *host, const char *text)
{
	int64_t stall = stall_of(text);

	if (stall > host->stall)
		host->stall = stall;
}

static void read_host(struct hostmemory *host, const char *meminfo, char text[TEXT])
{
	uint64_t total, available;

	if (!read_text(meminfo, text) || !number_after(text, "MemTotal:", &total) ||
	    !number_after(text, "MemAvailable:", &available))
		return;
	host->total = total << 10;
	host->available = available << 10;
}

/* What the group uses counts its page cache, which the kernel drops before it refuses memory. Of
 * shared memory (a memfd) it counts as anonymous what lies on those lists. */
static void read_group(struct hostmemory *host, const char *group, char text[TEXT])
{
	uint64_t limit, used, active = 0, inactive = 0;

	if (!read_of_group(group, "memory.max", text) || !number_after(text, "", &limit) ||
	    !read_of_group(group, "memory.current", text) || !number_after(text, "", &used))
		return;
	if (read_of_group(group, "memory.stat", text)) {
		number_after(text, "active_file ", &active);
		number_after(text, "inactive_file ", &inactive);
	}
	used -= active + inactive < used ? active + inactive : used;
	host->limit = limit;
	host->room = used < limit ? limit - used : 0;
}

void hostmemory_read(struct hostmemory *host, const char *pressure, const char *meminfo,
                     const char *group)
{
	char text[TEXT];

	*host = (struct hostmemory){.stall = -1};
	if (read_text(pressure, text))
		take_stall(host, text);
	if (read_of_group(group, "memory.pressure", text))
		take_stall(host, text);
	read_host(host, meminfo, text);
	read_group(host, group, text);
}
