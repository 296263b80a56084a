/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netload ADDRESS PORT          in the guest: streams to the host and from it, and round trips
 * netload -s ADDRESS PORT       on the host: the other side, for one guest
 *
 * The guest prints lines of "@@name seconds count": bytes of a stream, or round trips.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK  (64u << 10)
#define STREAM (32ull << 20)

enum { TRIPS = 1000, WARM_UP = 50, WORD = 64, TRIES = 100 };
enum { TO_HOST = 'w', FROM_HOST = 'r', ECHO = 'e' };

struct order {
	char what;
	uint64_t bytes;
};

static char chunk[CHUNK];

static void fail(const char *what)
{
	fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void put(int fd, const void *data, size_t length)
{
	for (const char *at = data; length;) {
		ssize_t done = write(fd, at, length);

		if (done <= 0)
			fail("write");
		at += done;
		length -= (size_t)done;
	}
}

static void get(int fd, void *data, size_t length)
{
	for (char *at = data; length;) {
		ssize_t done = read(fd, at, length);

		if (done <= 0)
			fail("read");
		at += done;
		length -= (size_t)done;
	}
}

static void put_stream(int fd, uint64_t bytes)
{
	for (; bytes; bytes -= CHUNK)
		put(fd, chunk, CHUNK);
}

static void get_stream(int fd, uint64_t bytes)
{
	for (; bytes; bytes -= CHUNK)
		get(fd, chunk, CHUNK);
}

static struct sockaddr_in address_of(const char *name, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};

	address.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
	if (inet_pton(AF_INET, name, &address.sin_addr) != 1)
		fail(name);
	return address;
}

static void at_once(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void serve(int fd)
{
	struct order order;

	for (;;) {
		get(fd, &order, sizeof(order));
		if (order.what == TO_HOST) {
			get_stream(fd, order.bytes);
			put(fd, &order.what, 1);
		} else if (order.what == FROM_HOST) {
			put_stream(fd, order.bytes);
		} else if (order.what == ECHO) {
			for (uint64_t i = 0; i < order.bytes; i++) {
				get(fd, chunk, WORD);
				put(fd, chunk, WORD);
			}
		} else {
			return;
		}
	}
}

static void be_host(const struct sockaddr_in *address)
{
	int on = 1, door = socket(AF_INET, SOCK_STREAM, 0), fd;

	setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(door, (const struct sockaddr *)address, sizeof(*address)) || listen(door, 1))
		fail("listen");
	fd = accept(door, NULL, NULL);
	if (fd < 0)
		fail("accept");
	at_once(fd);
	serve(fd);
}

static int reach(const struct sockaddr_in *address)
{
	for (int tries = 0; tries < TRIES; tries++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)))
			return fd;
		close(fd);
		usleep(100000);
	}
	fail("connect");
	return -1;
}

static void order(int fd, char what, uint64_t bytes)
{
	struct order order;

	memset(&order, 0, sizeof(order)); /* the padding goes over the wire too */
	order.what = what;
	order.bytes = bytes;
	put(fd, &order, sizeof(order));
}

static void trips(int fd, uint64_t count)
{
	order(fd, ECHO, count);
	for (uint64_t i = 0; i < count; i++) {
		put(fd, chunk, WORD);
		get(fd, chunk, WORD);
	}
}

static void tell(const char *name, double start, uint64_t count)
{
	printf("@@%s %.9f %llu\n", name, now() - start, (unsigned long long)count);
}

static void be_guest(const struct sockaddr_in *address)
{
	int fd = reach(address);
	double start;
	char done;

	at_once(fd);
	trips(fd, WARM_UP);
	start = now();
	order(fd, TO_HOST, STREAM);
	put_stream(fd, STREAM);
	get(fd, &done, 1);
	tell("to-host", start, STREAM);
	start = now();
	order(fd, FROM_HOST, STREAM);
	get_stream(fd, STREAM);
	tell("from-host", start, STREAM);
	start = now();
	trips(fd, TRIPS);
	tell("trip", start, TRIPS);
	order(fd, 'q', 0);
}

int main(int argc, char **argv)
{
	int host = argc == 4 && !strcmp(argv[1], "-s");
	struct sockaddr_in address;

	if (argc != 3 + host)
		return 2;
	address = address_of(argv[1 + host], argv[2 + host]);
	if (host)
		be_host(&address);
	else
		be_guest(&address);
	return 0;
}
