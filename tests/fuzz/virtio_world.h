/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio device with the memory of its guest: one execution of the virtio target. */
#ifndef FUZZ_VIRTIO_WORLD_H
#define FUZZ_VIRTIO_WORLD_H

#include "host.h"
#include "input.h"
#include "virtio/device.h"

enum {
	QUEUES = 4, /* no device here has more */
	RAM = 64 << 10,
	ROM = 4096,
	ROM_AT = 0x100000,
	DISK_AT = 0x200000,
	DISK = HOST_DISK_BYTES,
};

enum kind { RNG, BLK_FILE, BLK_MEMORY, CONSOLE, NET, KINDS };

struct world {
	struct input input;
	struct guest_memory *memory;
	struct iothread *thread;
	struct virtio_device *device;
	enum kind kind;
	int irq, quit, gate, in, out, tap;
	uint16_t avail[QUEUES];
};

/* virtio_target.c */
extern uint8_t *ram;

/* virtio_driver.c */
void start_driver(struct world *world, uint32_t low, uint32_t high);
/* One operation of the input. */
void operate(struct world *world);

#endif
