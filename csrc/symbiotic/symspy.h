/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SymSpy: pages of its own memory that the guest shares with the VMM, one for the machine and one
 * for each vCPU. The VMM writes them and believes nothing it finds there, but for one bit by which
 * a guest says that it takes symcalls. docs/symbiotic.md, "SymSpy".
 */
#ifndef PYVMM_SYMBIOTIC_SYMSPY_H
#define PYVMM_SYMBIOTIC_SYMSPY_H

#include <stdint.h>
#include <symbiotic.h>

#include "machine/bus.h"
#include "machine/memory.h"

/* cffi: begin */
struct symspy;

/* For a machine of `cpus` vCPUs. NULL and errno on failure. */
struct symspy *symspy_create(const struct guest_memory *memory, uint32_t cpus);
void symspy_destroy(struct symspy *symspy);

/* Claims the two MSRs on the bus: 0 or the error of bus_add(). */
int symspy_attach(struct symspy *symspy, struct bus *msr);

/* No page may lie in [gpa, gpa + length): 0, -EINVAL or -ENOSPC. Before the guest runs. */
int symspy_reserve(struct symspy *symspy, uint64_t gpa, uint64_t length);

/* Guest-physical address of the page of that vCPU, or of the VM-wide one for -1; 0 for none. */
uint64_t symspy_page(struct symspy *symspy, int cpu);

/* The swap disk's part of the VM-wide page: docs/symbiotic.md, "SwapBypass". */
struct symspy_swap {
	uint32_t mode; /* SYMBIOTIC_SWAP_OFF and so on */
	uint64_t base; /* of the aperture, guest-physical */
	uint64_t size; /* bytes, of the aperture and of the disk */
	uint64_t room; /* bytes directly below the aperture */
	char serial[20];
};

/* From now on the page has it, wherever the guest puts the page; and a new mode at any time. */
void symspy_set_swap(struct symspy *symspy, const struct symspy_swap *swap);
void symspy_set_swap_mode(struct symspy *symspy, uint32_t mode);

/* True if a page lies in [gpa, gpa + length), which does not wrap. */
int symspy_holds(struct symspy *symspy, uint64_t gpa, uint64_t length);

/* Writes to one of the pages that were refused so far. */
uint64_t symspy_refused(struct symspy *symspy);
/* cffi: end */

/* Host address of the page of a vCPU, NULL for none. On that vCPU's thread. */
uint8_t *symspy_vcpu_page(const struct symspy *symspy, uint32_t cpu);

/* The flags of such a page, SYMBIOTIC_VCPU_*, which the guest may change at any time. */
static inline uint32_t *symspy_flags(uint8_t *page)
{
	return (uint32_t *)(page + SYMBIOTIC_FLAGS_OFFSET);
}

#endif
