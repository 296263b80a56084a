/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define VIRTIO_PORT "/dev/vport0p1"
#define PAYLOAD_MAX (8u << 20)

static int port = -1;

void power_off(void)
{
	sync();
	reboot(RB_AUTOBOOT); /* QEMU runs with -no-reboot */
	for (;;)
		pause();
}

static void wait_for(int fd, short events)
{
	struct pollfd one = {.fd = fd, .events = events};

	while (poll(&one, 1, -1) < 0 && errno == EINTR)
		;
	if (one.revents & POLLHUP)
		power_off(); /* the host side is gone: nobody is left to serve */
}

static void port_write(const void *data, size_t length)
{
	const char *at = data;

	while (length > 0) {
		ssize_t n = write(port, at, length);

		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			wait_for(port, POLLOUT);
		} else if (n == 0 || errno != EINTR) {
			power_off();
		}
	}
}

static void port_read(void *data, size_t length)
{
	char *at = data;

	while (length > 0) {
		ssize_t n = read(port, at, length);

		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			wait_for(port, POLLIN);
		} else if (n == 0 || errno != EINTR) {
			power_off();
		}
	}
}

/* One write for header and payload: each costs an exit of the emulated device. */
void send_frame(enum frame type, const void *payload, uint32_t length)
{
	char packet[5 + CHUNK];

	packet[0] = (char)type;
	memcpy(packet + 1, &length, sizeof(length));
	memcpy(packet + 5, payload, length);
	port_write(packet, 5 + length);
}

void fail(const char *format, ...)
{
	char text[1024];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (length < 0)
		length = 0;
	if ((size_t)length >= sizeof(text))
		length = sizeof(text) - 1;
	fprintf(stderr, "lab: %s\n", text);
	if (port >= 0)
		send_frame(F_FAIL, text, (uint32_t)length);
	power_off();
}

void read_header(char *type, uint32_t *length)
{
	char header[5];

	port_read(header, sizeof(header));
	*type = header[0];
	memcpy(length, header + 1, sizeof(*length));
	if (*length > PAYLOAD_MAX)
		fail("a frame of %u bytes from the host", *length);
}

char *read_payload(uint32_t length)
{
	char *payload = malloc((size_t)length + 1);

	if (payload == NULL)
		fail("no memory for a frame of %u bytes", length);
	port_read(payload, length);
	payload[length] = '\0';
	return payload;
}

char *next_string(char **at, const char *end)
{
	char *text = *at;

	if (text >= end)
		fail("a frame from the host ends too early");
	*at = text + strlen(text) + 1;
	return text;
}

int next_number(char **at, const char *end)
{
	return atoi(next_string(at, end));
}

static void open_device(const char *path)
{
	const struct timespec pause_time = {.tv_nsec = 2000000};

	/* The port appears when the device has answered: soon, but not at once. */
	for (int tries = 0; tries < 5000; tries++) {
		port = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (port >= 0)
			return;
		nanosleep(&pause_time, NULL);
	}
	fail("no %s: %s", path, strerror(errno));
}

/* A serial port that passes every byte on as it is. */
static void make_raw(void)
{
	struct termios line;

	if (tcgetattr(port, &line) < 0)
		return;
	cfmakeraw(&line);
	line.c_cflag |= CLOCAL | CREAD;
	cfsetspeed(&line, B115200);
	tcsetattr(port, TCSANOW, &line);
}

/* Until the device says that the host is there, reading means end of file. */
static void await_host(void)
{
	const struct timespec pause_time = {.tv_nsec = 1000000};
	struct pollfd one = {.fd = port, .events = POLLOUT};

	for (int tries = 0; tries < 10000; tries++) {
		if (poll(&one, 1, 0) >= 0 && !(one.revents & POLLHUP))
			return;
		nanosleep(&pause_time, NULL);
	}
	power_off();
}

void port_open(void)
{
	/* A word of the kernel's command line that the kernel does not know is in our environment.
	 */
	const char *serial = getenv("lab_port");

	open_device(serial ? serial : VIRTIO_PORT);
	if (serial)
		make_raw();
	await_host();
}

int port_descriptor(void)
{
	return port;
}
