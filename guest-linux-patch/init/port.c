/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/io.h>
#include <unistd.h>

#include "port.h"

void out_byte(unsigned short port, unsigned char value)
{
	if (ioperm(port, 1, 1) == 0) {
		outb(value, port);
		return;
	}
	int fd = open("/dev/port", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!pwrite(fd, &value, 1, port);
	close(fd);
}
