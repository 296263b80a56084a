/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

char *read_file(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;

	struct stat status;
	char *data = fstat(fd, &status) ? NULL : malloc((size_t)status.st_size + 1);
	size_t used = 0;
	while (data && used < (size_t)status.st_size) {
		ssize_t got = read(fd, data + used, (size_t)status.st_size - used);
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	close(fd);
	if (data) {
		data[used] = '\0';
		*length = used;
	}
	return data;
}

bool write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t done = write(fd, data, length);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		data += done;
		length -= (size_t)done;
	}
	return true;
}
