/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's end of a split virtqueue (virtio 1.2, section 2.7), with indirect descriptors and
 * event indices.
 *
 * The driver is hostile. An index, descriptor or flag is read from guest memory once, checked, and
 * used from the copy; the device's own positions are never read back from the guest. What a driver
 * must not do comes back as a violation, and the device then asks for a reset.
 *
 * One thread uses a queue at a time; the driver's side is the only concurrency it deals with.
 */
#ifndef PYVMM_VIRTIO_QUEUE_H
#define PYVMM_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "host/iovec.h"
#include "machine/memory.h"

/* cffi: begin */
enum {
	VIRTQUEUE_MAX_SIZE = 1024,
};

/* Violations by drivers; 0 is none. virtqueue_violation_name() has the words for people. */
enum virtqueue_violation {
	VIRTQUEUE_BAD_SIZE = 1,         /* queue size is no power of two, or above the maximum */
	VIRTQUEUE_BAD_RING = 2,         /* a ring is unaligned or not in (writable) memory */
	VIRTQUEUE_BAD_AVAIL = 3,        /* available index jumped by more than the queue size */
	VIRTQUEUE_BAD_INDEX = 4,        /* a descriptor's index is outside of its table */
	VIRTQUEUE_LONG_CHAIN = 5,       /* a loop, or more descriptors than the queue has */
	VIRTQUEUE_BAD_BUFFER = 6,       /* a buffer is not in memory */
	VIRTQUEUE_READONLY_BUFFER = 7,  /* a buffer to be written is in read-only memory */
	VIRTQUEUE_LARGE_CHAIN = 8,      /* buffers of one chain add up to 4 GiB or more */
	VIRTQUEUE_BAD_ORDER = 9,        /* a readable buffer after a writable one */
	VIRTQUEUE_BAD_INDIRECT = 10,    /* indirect table empty, ragged, outside memory, unasked */
	VIRTQUEUE_NESTED_INDIRECT = 11, /* an indirect table inside an indirect table */
	VIRTQUEUE_BAD_REQUEST = 12,     /* the device cannot make sense of what the chain holds */
	VIRTQUEUE_VIOLATIONS = 13,
};

/* A short name, such as "chain too long"; NULL for what is no violation. */
const char *virtqueue_violation_name(uint32_t violation);
/* cffi: end */

struct vring_desc;
struct vring_avail;
struct vring_used;

/* One request: buffers of the driver, in its order. */
struct virtqueue_chain {
	uint16_t head;
	struct iovec_list readable; /* by the device */
	struct iovec_list writable;
	uint32_t capacity;
	struct iovec pieces[];
};

struct virtqueue {
	/* The transport's configuration; fixed while the queue is live. */
	uint32_t size_max;
	uint32_t size;
	uint64_t desc_gpa;
	uint64_t avail_gpa;
	uint64_t used_gpa;

	/* The live queue. Ring pointers are host addresses, NULL when it is not live. */
	const struct guest_memory *memory;
	const struct vring_desc *desc;
	const struct vring_avail *avail;
	struct vring_used *used;
	bool event_idx;
	bool indirect;
	bool kicks_off;        /* what the used ring's flags say */
	uint16_t next_avail;   /* next entry of the available ring to take */
	uint16_t avail_idx;    /* the driver's index as last read and checked */
	uint16_t used_idx;     /* entries published */
	uint16_t signaled_idx; /* used_idx at the last decision about an interrupt */
};

/* NULL without memory. The capacity is in buffers. */
struct virtqueue_chain *virtqueue_chain_create(uint32_t capacity);

/* Makes the configured queue live with negotiated `features`: 0 or -violation. */
int virtqueue_start(struct virtqueue *queue, const struct guest_memory *memory, uint64_t features);
void virtqueue_stop(struct virtqueue *queue);
bool virtqueue_is_live(const struct virtqueue *queue);

/* Takes the next available chain: 1, 0 where there is none, or -violation. */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);

/* Gives the last `count` popped chains back, none of them pushed. */
void virtqueue_unpop(struct virtqueue *queue, uint16_t count);

/* Completes a chain; `written` is the number of bytes stored to its writable buffers. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written);

/* The same in two steps, for several chains that the driver must see all at once: fill entries 0,
 * 1.. beyond what is published, then publish them. */
void virtqueue_fill(struct virtqueue *queue, uint16_t ahead, uint16_t head, uint32_t written);
void virtqueue_publish(struct virtqueue *queue, uint16_t count);

/* True if the driver wants an interrupt for what was published since the last call. */
bool virtqueue_wants_interrupt(struct virtqueue *queue);

/* Kicks are useless while the device is at the queue anyway. Resuming asks for a kick when chains
 * beyond those seen so far become available, and tells whether some already have: the device must
 * then look again. */
void virtqueue_suppress_kicks(struct virtqueue *queue);
bool virtqueue_resume_kicks(struct virtqueue *queue);

#endif
