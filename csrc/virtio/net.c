/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/guard.h"
#include "virtio/serve.h"

enum {
	QUEUE_SIZE = 256,
	RX = 0,
	TX = 1,
	QUEUES,
	HEADER = sizeof(struct virtio_net_hdr_v1),
	/* The largest segment to be cut by somebody else, with an Ethernet and two VLAN headers. */
	FRAME_LIMIT = HEADER + 14 + 2 * 4 + 65535,
};

struct virtio_net {
	struct virtio_device device;
	struct iothread_watch tap;
	uint32_t watched; /* epoll events; 0 is not watched */
	bool rx_starved;  /* a frame waits for buffers of the driver */
	bool tx_held;     /* the TX queue's chain waits for room in the tap */
	bool dead;        /* the tap is gone */
	size_t frame_bytes;
	uint8_t frame[FRAME_LIMIT];
};

/* Offloads of the tap for what the driver accepts to receive. */
static const struct {
	unsigned int guest, host, tun;
} offloads[] = {
        {VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM, TUN_F_CSUM},
        {VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4},
        {VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN},
        {VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO, TUN_F_UFO},
};

enum { OFFLOADS = sizeof(offloads) / sizeof(offloads[0]) };

static struct virtio_net *net_of(struct virtio_device *device)
{
	return (struct virtio_net *)((char *)device - offsetof(struct virtio_net, device));
}

static struct virtio_queue *queue_of(struct virtio_net *net, unsigned int index)
{
	return &net->device.queues[index];
}

static bool usable(const struct virtio_net *net, const struct virtio_queue *queue)
{
	return !net->dead && queue->running && !virtio_is_broken(&net->device);
}

/* The tap. */

/* Watches for what can be used now. Level-triggered, so anything else would make it spin. */
static void watch(struct virtio_net *net)
{
	struct iothread *thread = net->device.thread;
	uint32_t events = 0;

	if (usable(net, queue_of(net, RX)) && !net->rx_starved)
		events |= EPOLLIN;
	if (usable(net, queue_of(net, TX)) && net->tx_held)
		events |= EPOLLOUT;
	if (events == net->watched)
		return;
	if (!events)
		iothread_del(thread, &net->tap);
	else if (net->watched)
		iothread_mod(thread, &net->tap, events);
	else if (iothread_add(thread, &net->tap, events))
		events = 0;
	net->watched = events;
}

/* The interface was deleted under us: no carrier, says the configuration space. */
static void lose_tap(struct virtio_net *net)
{
	uint16_t status = 0;

	net->dead = true;
	virtio_update_config(&net->device, offsetof(struct virtio_net_config, status), &status,
	                     sizeof(status));
}

/* Receiving. */

/* The specification wants in the header how many chains the frame took. */
struct merge_count {
	uint8_t *low, *high;
};

static struct merge_count find_count(const struct iovec_list *to)
{
	const size_t at = offsetof(struct virtio_net_hdr_v1, num_buffers);

	return (struct merge_count){iovec_at(to, at), iovec_at(to, at + 1)};
}

enum delivery { DELIVERED, STARVED, DROPPED, BROKEN };

/* Puts the waiting frame into as many chains as it needs and publishes them together, or puts all
 * of them back. */
static enum delivery fill_chains(struct virtio_net *net, struct virtio_queue *queue)
{
	const bool merge = virtio_has(&net->device, VIRTIO_NET_F_MRG_RXBUF);
	struct merge_count count = {NULL, NULL};
	uint16_t used = 0;
	size_t done = 0;

	while (done < net->frame_bytes) {
		struct iovec_list *to = &queue->chain->writable;
		size_t bytes;

		/* A frame that even all chains of the queue do not hold will never fit. */
		if ((used && !merge) || used == queue->ring.size) {
			virtqueue_unpop(&queue->ring, used);
			return DROPPED;
		}
		if (!virtio_pop(queue)) {
			virtqueue_unpop(&queue->ring, used);
			return virtio_is_broken(&net->device) ? BROKEN : STARVED;
		}
		if (!used && to->bytes < HEADER) {
			virtio_violation(&net->device, VIRTQUEUE_BAD_REQUEST);
			return BROKEN;
		}
		if (!used)
			count = find_count(to);
		bytes = iovec_put(to, net->frame + done, net->frame_bytes - done);
		virtqueue_fill(&queue->ring, used++, queue->chain->head, (uint32_t)bytes);
		done += bytes;
	}
	guard_copy(count.low, &(uint8_t){(uint8_t)used}, 1);
	guard_copy(count.high, &(uint8_t){(uint8_t)(used >> 8)}, 1);
	virtqueue_publish(&queue->ring, used);
	virtio_count(&net->device.stats.requests, used);
	return DELIVERED;
}

/* False when the frame has to wait, or nothing works any more. */
static bool deliver(struct virtio_net *net, struct virtio_queue *queue)
{
	enum delivery outcome = fill_chains(net, queue);

	while (outcome == STARVED && virtio_look_again(queue)) {
		if (virtio_turn_is_over(queue))
			return false;
		outcome = fill_chains(net, queue);
	}
	net->rx_starved = outcome == STARVED;
	if (outcome == STARVED || outcome == BROKEN)
		return false;
	if (outcome == DELIVERED)
		virtio_count(&net->device.stats.bytes_to_guest, net->frame_bytes - HEADER);
	else
		virtio_count(&net->device.stats.errors, 1);
	virtio_spend(queue, net->frame_bytes);
	queue->turn.chains++;
	net->frame_bytes = 0;
	virtqueue_suppress_kicks(&queue->ring);
	return true;
}

/* Reads the next frame; false when there is none. */
static bool receive(struct virtio_net *net)
{
	ssize_t got = read(net->tap.fd, net->frame, sizeof(net->frame));

	if (got >= HEADER) {
		net->frame_bytes = (size_t)got;
		return true;
	}
	if (got < 0 && errno != EAGAIN && errno != EINTR && errno != EIO)
		lose_tap(net);
	return false;
}

static void pump_rx(struct virtio_net *net)
{
	struct virtio_queue *queue = queue_of(net, RX);

	if (!usable(net, queue))
		return;
	virtio_begin_turn(queue);
	while (!virtio_turn_is_over(queue)) {
		if (!net->frame_bytes && !receive(net))
			break;
		if (!deliver(net, queue))
			break;
	}
	virtio_interrupt(queue);
	/* A frame that is in the tap keeps it readable; one may have been read already. */
	if (virtio_turn_is_over(queue))
		virtio_ask_turn(queue);
}

/* Sending. */

/* Sends the held chain; false while the tap is full. */
static bool send_held(struct virtio_net *net)
{
	const struct iovec_list *from = &queue_of(net, TX)->chain->readable;
	ssize_t done = -1;

	if (from->bytes > FRAME_LIMIT)
		errno = EMSGSIZE;
	else
		done = writev(net->tap.fd, from->iov, (int)from->count);
	if (done >= 0) {
		virtio_count(&net->device.stats.bytes_from_guest, (uint64_t)done - HEADER);
		virtio_spend(queue_of(net, TX), (uint64_t)done);
		return true;
	}
	if (errno == EAGAIN)
		return false;
	/* A frame the host refuses, or an interface that is down: networks lose frames. */
	virtio_count(&net->device.stats.errors, 1);
	if (errno == EBADFD)
		lose_tap(net);
	return true;
}

static void pump_tx(struct virtio_net *net)
{
	struct virtio_queue *queue = queue_of(net, TX);
	bool more = true;

	if (!queue->running || virtio_is_broken(&net->device))
		return;
	virtio_begin_turn(queue);
	virtqueue_suppress_kicks(&queue->ring);
	while (more && !virtio_turn_is_over(queue)) {
		if (!net->tx_held && !virtio_pop(queue)) {
			more = virtio_look_again(queue);
			continue;
		}
		if (queue->chain->readable.bytes < HEADER) {
			virtio_violation(&net->device, VIRTQUEUE_BAD_REQUEST);
			break;
		}
		net->tx_held = !net->dead && !send_held(net);
		if (net->tx_held)
			break;
		virtio_push(queue, 0);
	}
	virtio_interrupt(queue);
	if (more && !net->tx_held)
		virtio_ask_turn(queue);
}

/* The device. */

static void tap_ready(struct iothread_watch *watched, uint32_t events)
{
	struct virtio_net *net = watched->opaque;

	if (events & (EPOLLERR | EPOLLHUP))
		lose_tap(net);
	if (events & EPOLLOUT)
		pump_tx(net);
	if (events & EPOLLIN)
		pump_rx(net);
	watch(net);
}

static void kick(struct virtio_device *device, struct virtio_queue *queue)
{
	struct virtio_net *net = net_of(device);

	if (queue->index == RX)
		pump_rx(net);
	else if (!net->tx_held)
		pump_tx(net);
	watch(net);
}

static void set_offloads(const struct virtio_net *net)
{
	unsigned int flags = 0;

	for (unsigned int i = 0; i < OFFLOADS; i++)
		if (virtio_has(&net->device, offloads[i].guest))
			flags |= offloads[i].tun;
	/* The offers were tried out before, so this cannot fail but for a lost tap. */
	if (ioctl(net->tap.fd, TUNSETOFFLOAD, flags))
		return;
}

static void start(struct virtio_device *device)
{
	set_offloads(net_of(device));
}

static void stop_queue(struct virtio_device *device, struct virtio_queue *queue)
{
	struct virtio_net *net = net_of(device);

	if (queue->index == RX)
		net->rx_starved = false;
	else
		net->tx_held = false;
	watch(net);
}

static void stop(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	/* Its header was made for what the last driver accepted. */
	net->frame_bytes = 0;
	watch(net);
}

static bool accepts(struct virtio_device *device, uint64_t features)
{
	/* Section 5.1.3.1: what a feature needs. */
	static const uint64_t needs[][2] = {
	        {1ULL << VIRTIO_NET_F_GUEST_TSO4, 1ULL << VIRTIO_NET_F_GUEST_CSUM},
	        {1ULL << VIRTIO_NET_F_GUEST_TSO6, 1ULL << VIRTIO_NET_F_GUEST_CSUM},
	        {1ULL << VIRTIO_NET_F_GUEST_UFO, 1ULL << VIRTIO_NET_F_GUEST_CSUM},
	        {1ULL << VIRTIO_NET_F_GUEST_ECN,
		 1ULL << VIRTIO_NET_F_GUEST_TSO4 | 1ULL << VIRTIO_NET_F_GUEST_TSO6},
	        {1ULL << VIRTIO_NET_F_HOST_TSO4, 1ULL << VIRTIO_NET_F_CSUM},
	        {1ULL << VIRTIO_NET_F_HOST_TSO6, 1ULL << VIRTIO_NET_F_CSUM},
	        {1ULL << VIRTIO_NET_F_HOST_UFO, 1ULL << VIRTIO_NET_F_CSUM},
	        {1ULL << VIRTIO_NET_F_HOST_ECN,
		 1ULL << VIRTIO_NET_F_HOST_TSO4 | 1ULL << VIRTIO_NET_F_HOST_TSO6},
	};

	(void)device;
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
		if ((features & needs[i][0]) && !(features & needs[i][1]))
			return false;
	return true;
}

static void destroy(struct virtio_device *device)
{
	virtio_release(device);
	free(net_of(device));
}

static const struct virtio_operations operations = {
        .kick = kick,
        .start = start,
        .stop_queue = stop_queue,
        .stop = stop,
        .accepts = accepts,
        .destroy = destroy,
};

/* Offers what the tap can do. Kernels differ in UFO, so ask with it and without. */
static void offer_offloads(struct virtio_net *net)
{
	for (unsigned int count = OFFLOADS; count; count--) {
		uint64_t features = 0;
		unsigned int flags = 0;

		for (unsigned int i = 0; i < count; i++) {
			features |= 1ULL << offloads[i].guest | 1ULL << offloads[i].host;
			flags |= offloads[i].tun;
		}
		if (!ioctl(net->tap.fd, TUNSETOFFLOAD, flags)) {
			net->device.offered |= features;
			break;
		}
	}
	set_offloads(net);
}

static int set_up_tap(struct virtio_net *net, int fd)
{
	const int kind = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	int size = HEADER, flags = fcntl(fd, F_GETFL);
	struct ifreq interface = {0};

	if (ioctl(fd, TUNGETIFF, &interface))
		return -errno;
	if ((interface.ifr_flags & kind) != kind)
		return -EINVAL;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
	    ioctl(fd, TUNSETVNETHDRSZ, &size))
		return -errno;
	net->tap = (struct iothread_watch){fd, tap_ready, net};
	offer_offloads(net);
	return 0;
}

static void describe(struct virtio_net *net, const uint8_t *mac, uint16_t mtu)
{
	struct virtio_net_config config = {.status = VIRTIO_NET_S_LINK_UP, .mtu = mtu};

	memcpy(config.mac, mac, sizeof(config.mac));
	net->device.offered |= 1ULL << VIRTIO_NET_F_MAC | 1ULL << VIRTIO_NET_F_STATUS |
	                       1ULL << VIRTIO_NET_F_MRG_RXBUF;
	if (mtu)
		net->device.offered |= 1ULL << VIRTIO_NET_F_MTU;
	/* The rest belongs to features that are not offered. */
	net->device.config_size = offsetof(struct virtio_net_config, mtu) + sizeof(config.mtu);
	memcpy(net->device.config, &config, net->device.config_size);
}

struct virtio_device *virtio_net_create(const struct virtio_wiring *wiring, int tap_fd,
                                        const uint8_t *mac, uint16_t mtu)
{
	struct virtio_net *net = calloc(1, sizeof(*net));
	int ret;

	if (!net)
		return NULL;
	ret = virtio_init(&net->device, VIRTIO_ID_NET, &operations, wiring, QUEUES);
	if (!ret)
		ret = set_up_tap(net, tap_fd);
	for (unsigned int i = 0; i < QUEUES && !ret; i++)
		ret = virtio_add_queue(&net->device, QUEUE_SIZE);
	if (ret) {
		destroy(&net->device);
		errno = -ret;
		return NULL;
	}
	describe(net, mac, mtu);
	return &net->device;
}
