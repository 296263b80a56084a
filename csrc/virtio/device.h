/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part that every virtio device has (virtio 1.2, section 2): status, features, configuration
 * space, queues, counters. A kind of device embeds struct virtio_device and gives it operations; a
 * transport (mmio.h is one) shows it to the guest.
 *
 * All that a driver reads lies in one page of memory, laid out by the transport: the guest may have
 * that page mapped, and then reads it without an exit.
 *
 * Two threads meet here. The transport runs on vCPU threads under `lock`. Queues, once live, belong
 * to the I/O thread alone: the transport changes them through iothread_call(). What both touch
 * (status, interrupt_status) is atomic. The I/O thread never takes `lock`, or it would wait for a
 * vCPU that waits for it.
 */
#ifndef PYVMM_VIRTIO_DEVICE_H
#define PYVMM_VIRTIO_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "host/iothread.h"
#include "machine/memory.h"
#include "virtio/queue.h"

/* cffi: begin */
enum {
	/* Of a device. Each costs it some KiB, and the machine an eventfd. */
	VIRTIO_MAX_QUEUES = 256,
};

/* Counters since the device was made; a reset by the driver does not clear them. */
struct virtio_stats {
	uint64_t kicks;            /* times the device was woken for a queue */
	uint64_t requests;         /* chains completed */
	uint64_t bytes_to_guest;   /* payload */
	uint64_t bytes_from_guest; /* payload */
	uint64_t errors;           /* requests failed, frames or output dropped */
	uint64_t interrupts;
	uint64_t resets;         /* by the driver */
	uint64_t violations[13]; /* by enum virtqueue_violation */
};

struct virtio_device;
struct virtio_transport;

/* What a device stands between, as whoever makes the board has it. It is copied; what it names is
 * not owned, and outlives the device. */
struct virtio_wiring {
	const struct guest_memory *memory;
	struct iothread *thread;
	const struct virtio_transport *transport;
	int irq_fd; /* eventfd that the transport interrupts the guest by */
};

/* Detaches the device from its queues and frees it; the I/O thread still exists, and is best
 * stopped (iothread_stop()), as all this then takes no time that the host could make longer. */
void virtio_destroy(struct virtio_device *device);

/* The eventfd that the guest's notification of a queue arrives at; not owned. Before the guest
 * runs. 0 or -EINVAL. */
int virtio_set_kick(struct virtio_device *device, uint32_t queue, int fd);

uint32_t virtio_queue_count(const struct virtio_device *device);
uint32_t virtio_device_id(const struct virtio_device *device);
void virtio_stats(struct virtio_device *device, struct virtio_stats *stats);

/* Waits until the I/O thread has handled what it was woken for before. */
void virtio_settle(struct virtio_device *device);

/* The status field (virtio 1.2, section 2.1): 64 is DEVICE_NEEDS_RESET. */
uint32_t virtio_status(const struct virtio_device *device);
/* cffi: end */

/* A device works in turns, between which other handlers of its thread have theirs. A turn ends
 * after so many bytes or chains, after some time, or when a vCPU waits for the thread: no driver,
 * whatever it offers, holds up its own reset, a stop, or another queue. The rest of a chain waits
 * for the next turn. */
struct virtio_turn {
	uint64_t bytes; /* moved, looked at, or written over */
	uint32_t chains;
	int64_t until; /* nanoseconds of CLOCK_MONOTONIC */
};

struct virtio_queue {
	struct virtqueue ring;
	struct virtqueue_chain *chain; /* the one being served */
	bool held;                     /* it is not through yet */
	struct virtio_turn turn;
	struct virtio_device *device;
	struct iothread_watch kick;
	uint32_t index;
	bool ready;   /* the register; under device->lock */
	bool running; /* watched; I/O thread */
};

/* How a guest sees a device. A transport is made for all devices; what it has of one is in the
 * page, or lies in memory of its own around that. */
struct virtio_transport {
	/* Makes the page, and what points into it: 0 or -errno. `free` undoes it, and is harmless
	 * after a failure. */
	int (*lay_out)(struct virtio_device *device);
	void (*free)(struct virtio_device *device);

	/* Interrupts the driver, on any thread: because of what a queue has, or, with NULL, because
	 * the configuration changed. */
	void (*interrupt)(struct virtio_device *device, const struct virtio_queue *queue);
};

/* All but write_config are called on the I/O thread. Only kick and destroy are required. */
struct virtio_operations {
	/* Something may be available in a queue. */
	void (*kick)(struct virtio_device *device, struct virtio_queue *queue);
	/* The driver is ready (before the first kick). */
	void (*start)(struct virtio_device *device);
	/* The queue goes away: forget chains held. */
	void (*stop_queue)(struct virtio_device *device, struct virtio_queue *queue);
	/* The driver reset the device, or gave up (after its queues went). */
	void (*stop)(struct virtio_device *device);
	/* True if a subset of the offered features fits together; vCPU thread. */
	bool (*accepts)(struct virtio_device *device, uint64_t features);
	/* A write to configuration space inside of it; vCPU thread. */
	void (*write_config)(struct virtio_device *device, uint32_t offset, const uint8_t *bytes,
	                     uint32_t length);
	/* Frees the whole device, after virtio_release(); on the caller's thread. */
	void (*destroy)(struct virtio_device *device);
};

struct virtio_device {
	const struct virtio_operations *operations;
	const struct virtio_transport *transport;
	const struct guest_memory *memory;
	struct iothread *thread;
	int irq_fd; /* not owned */
	uint32_t id;

	pthread_mutex_t lock; /* everything the transport changes */
	uint64_t offered;     /* features */
	uint64_t accepted;    /* what the driver wrote, fixed by FEATURES_OK */
	uint32_t offered_select;
	uint32_t accepted_select;
	uint32_t queue_select;

	uint8_t *page;              /* what the driver reads; the rest points into it */
	uint32_t *status;           /* atomic */
	uint32_t *interrupt_status; /* atomic */

	pthread_mutex_t config_lock; /* among writers; never held while waiting for a thread */
	uint32_t *config_generation; /* atomic */
	uint32_t config_size;
	uint8_t *config;

	uint32_t queue_count;
	uint32_t queue_room;
	struct virtio_queue *queues;
	struct virtio_stats stats; /* of the I/O thread; violations and interrupts of any */
};

/* For the makers of devices: fills in the common part, with room for so many queues. 0 or -errno,
 * -EINVAL for none and for more than VIRTIO_MAX_QUEUES; virtio_release() undoes it, and is harmless
 * after a failure. */
int virtio_init(struct virtio_device *device, uint32_t id,
                const struct virtio_operations *operations, const struct virtio_wiring *wiring,
                uint32_t queues);

/* The next queue, of at most so many descriptors: 0, -EINVAL for more than VIRTQUEUE_MAX_SIZE,
 * -ENOSPC where there is no room, -ENOMEM. */
int virtio_add_queue(struct virtio_device *device, uint32_t size_max);
void virtio_release(struct virtio_device *device);

static inline bool virtio_has(const struct virtio_device *device, unsigned int feature)
{
	return device->accepted >> feature & 1;
}

/* Replaces bytes of configuration space: quietly, or telling a running driver. Any thread. The
 * driver may read while this writes, so more than one field at a time is for before it runs. */
void virtio_store_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                         uint32_t length);
void virtio_update_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                          uint32_t length);

/* For transports, under lock. Both may have to wait for the I/O thread; a vCPU that is to stop
 * gives that up, and the device is then what it was, or on its way to be reset. */
struct vcpu;
void virtio_write_status(struct virtio_device *device, uint32_t value, const struct vcpu *vcpu);
void virtio_write_ready(struct virtio_device *device, struct virtio_queue *queue, bool ready,
                        const struct vcpu *vcpu);
void virtio_write_config(struct virtio_device *device, uint32_t offset, const void *bytes,
                         uint32_t length);

/* For data paths, on the I/O thread. */

/* The driver broke a rule: it is told to reset the device, which does nothing until then. */
void virtio_violation(struct virtio_device *device, uint32_t violation);
bool virtio_is_broken(const struct virtio_device *device);

/* Interrupts the driver if it wants that for what was pushed. */
void virtio_interrupt(struct virtio_queue *queue);

/* A counter with one writer at a time that other threads may read. */
static inline void virtio_count(uint64_t *counter, uint64_t amount)
{
	__atomic_store_n(counter, *counter + amount, __ATOMIC_RELAXED);
}

#endif
