/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-physical memory as the VMM sees it: a few regions, each one mapping of host memory.
 *
 * Regions are only ever added while the machine lives, so readers on any thread need no lock. Every
 * address that a guest hands over goes through guest_memory_at(): it must lie inside one region as
 * a whole.
 */
#ifndef PYVMM_MACHINE_MEMORY_H
#define PYVMM_MACHINE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
enum {
	GUEST_MEMORY_READONLY = 1,
	/* Not RAM, but memory all the same: devices move data there. */
	GUEST_MEMORY_APERTURE = 2,
	GUEST_MEMORY_MAX_REGIONS = 32,
};

struct guest_memory;

struct guest_memory *guest_memory_create(void);
void guest_memory_destroy(struct guest_memory *memory);

/* 0, -EINVAL (empty, wraps, or not page aligned), -EEXIST (overlaps), -ENOSPC (too many regions).
 */
int guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size, void *hva,
                     uint32_t flags);

/* Host address of [gpa, gpa + len), or NULL if that does not lie inside one region. */
void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len);

/* The same, and NULL as well where the guest may not write. */
void *guest_memory_at_writable(const struct guest_memory *memory, uint64_t gpa, uint64_t len);

/* The same as the first, and NULL as well in an aperture, which may be a file: for what is used
 * without a guard (host/guard.h). */
void *guest_memory_steady_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len);

/* The same, and NULL as well where the guest may not write: where page tables and shared pages may
 * lie. */
void *guest_memory_ram_at(const struct guest_memory *memory, uint64_t gpa, uint64_t len);

/* Maps `size` bytes of `fd` (or of anonymous memory for -1) shared; NULL and errno on failure. */
void *host_map(int fd, uint64_t size, uint64_t offset, int readonly);
int host_unmap(void *hva, uint64_t size);
/* cffi: end */

#endif
