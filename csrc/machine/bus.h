/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an access by the guest goes. One bus each for ports, MMIO and MSRs: sorted ranges of
 * addresses, each claimed by a C handler or by a hook that Python serves.
 *
 * Lookups take no lock: a change builds a new table and publishes it; old tables live until the bus
 * is destroyed.
 */
#ifndef PYVMM_MACHINE_BUS_H
#define PYVMM_MACHINE_BUS_H

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
struct vcpu;

struct bus_access {
	uint64_t address; /* as the guest named it: port, guest-physical address, MSR index */
	uint64_t offset;  /* from the start of the range */
	uint64_t value;  /* written value, or what a read returns; only the low `length` bytes count
	                  */
	uint32_t length; /* bytes: 1, 2, 4 or 8; an MMIO access may have any length from 1 to 8 */
	uint32_t is_write;
	uint32_t refused;  /* by the hook: as if a handler returned BUS_FAULT */
	struct vcpu *vcpu; /* that made the access, for handlers to whom it matters */
};

enum {
	BUS_DONE = 0,
	BUS_FAULT = -1, /* MSR only: the guest gets #GP. Elsewhere the same as nobody there */
	/* Any positive value is an enum vcpu_event: the run of this vCPU ends with it. */
};

/* Called on the vCPU's thread, maybe on several at once; must not block for long. */
typedef int bus_handler(void *opaque, struct bus_access *access);

struct bus;

struct bus *bus_create(void);
void bus_destroy(struct bus *bus);

/* 0, -EINVAL (empty or wraps), -EEXIST (overlaps another range), -ENOMEM. */
int bus_add(struct bus *bus, uint64_t base, uint64_t length, bus_handler *handler, void *opaque);
int bus_add_hook(struct bus *bus, uint64_t base, uint64_t length, uint32_t hook);

/* Removes the range that starts at base: 0 or -ENOENT. Accesses under way may still end in the old
 * handler. */
int bus_remove(struct bus *bus, uint64_t base);
/* cffi: end */

struct bus_range {
	uint64_t base;
	uint64_t length;
	bus_handler *handler; /* NULL for a hook */
	void *opaque;
	uint32_t hook;
};

/* The range an access falls into, wholly or (straddling its end) in part; NULL where nobody is. */
const struct bus_range *bus_find(const struct bus *bus, uint64_t address);

#endif
