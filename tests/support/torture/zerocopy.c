/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages go out of a network card by UDP without a copy, and are unmapped at once: the card has the
 * last reference, and gives it back with softirqs off. Multicast, so that nobody has to answer.
 */
#define _GNU_SOURCE
#include "region.h"
#include "scenario.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY  60
#define MSG_ZEROCOPY 0x4000000
#endif

#define CARD    "eth0"
#define ADDRESS "10.77.77.2"
#define GROUP   "239.77.77.77"

/* Why the last page was not sent. */
static int refusal;

enum { PAGES = 64, BYTES = 1400, STEPS = 64, PORT_DISCARD = 9 };

static struct sockaddr_in address_of(const char *text)
{
	struct sockaddr_in address = {
	        .sin_family = AF_INET,
	        .sin_port = htons(PORT_DISCARD),
	};

	inet_pton(AF_INET, text, &address.sin_addr);
	return address;
}

/* The card is there for this: it gets an address and is switched on. */
static void switch_on(struct job *job, int fd)
{
	struct ifreq request = {.ifr_name = CARD};
	struct sockaddr_in address = address_of(ADDRESS);

	memcpy(&request.ifr_addr, &address, sizeof(address));
	need(job, !ioctl(fd, SIOCSIFADDR, &request), "a network card (" CARD ")");
	need(job, !ioctl(fd, SIOCGIFFLAGS, &request), CARD);
	request.ifr_flags |= IFF_UP;
	need(job, !ioctl(fd, SIOCSIFFLAGS, &request), CARD);
}

static int open_socket(struct job *job)
{
	struct in_addr from = address_of(ADDRESS).sin_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1, off = 0;

	need(job, fd >= 0, "socket");
	switch_on(job, fd);
	need(job, !setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)), "SO_ZEROCOPY");
	need(job, !setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from)), "multicast");
	need(job, !setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &off, sizeof(off)), "multicast");
	return fd;
}

/* Notices of what was sent, which nobody wants but which take room. */
static void drop_notices(int fd)
{
	char control[256];
	struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};

	while (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
		message.msg_controllen = sizeof(control);
}

static bool send_page(struct region *region, int fd, size_t i)
{
	struct sockaddr_in to = address_of(GROUP);
	ssize_t sent = sendto(fd, region_page(region, i), BYTES, MSG_ZEROCOPY | MSG_DONTWAIT,
	                      (struct sockaddr *)&to, sizeof(to));

	if (sent < 0)
		refusal = errno;
	if (sent < 0 && errno != EAGAIN && errno != ENOBUFS)
		bad(region->job, "sendto: %m");
	return sent == BYTES;
}

/* Swapped out, used where they lie, sent, and gone; in one go, so that the card is behind. */
static size_t send_off(struct region *region, int fd, size_t from)
{
	size_t sent = 0;

	region_advise(region, from, PAGES, MADV_PAGEOUT);
	for (size_t i = from; i < from + PAGES; i++)
		region_check(region, i);
	for (size_t i = from; i < from + PAGES; i++) {
		sent += send_page(region, fd, i);
		if (madvise(region_page(region, i), PAGE, MADV_DONTNEED))
			bad(region->job, "MADV_DONTNEED: %m");
		region->versions[i] = 0;
	}
	drop_notices(fd);
	for (size_t i = from; i < from + PAGES; i++)
		region_write(region, i);
	return sent;
}

void scenario_zerocopy(struct job *job)
{
	struct region *region = region_make(job, job->pages);
	int fd = open_socket(job);
	uint64_t state = job->seed;
	size_t sent = 0;

	need(job, job->pages > PAGES, "memory of this worker");
	region_fill(region);
	while (time_left(job)) {
		sent += send_off(region, fd, below(&state, job->pages - PAGES));
		for (int i = 0; i < STEPS; i++)
			region_step(region, &state);
	}
	/* 0: time was over before the first one. */
	if (!sent && refusal)
		bad(job, "not one page was sent: %s", strerror(refusal));
	region_verify(region);
	region_unmake(region);
	close(fd);
}
