/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault on a page in the swap store, put before the VMM: may the guest use the page where it
 * lies, and if so, the VMM writes the page table entry. The guest is asked by a symcall where that
 * entry is, and nothing it says is believed. docs/symbiotic.md, "SwapBypass".
 */
#ifndef PYVMM_SWAP_MAP_H
#define PYVMM_SWAP_MAP_H

#include <stdint.h>

#include "symbiotic/symcall.h"

/* cffi: begin */
enum {
	/* RBX: the faulting address, RCX: the slot, RDX: the entry that is there, RSI: the one that
	 * the guest would write. RBX of the answer is an enum swap_reason. */
	HYPERCALL_SWAP_MAP = 0x5003,
	SYMCALL_NUMBER_LOOKUP = 10,
};

enum swap_reason {
	SWAP_MAPPED,
	SWAP_BAD_MODE,   /* off, or the guest did not attach */
	SWAP_BAD_SLOT,   /* not there, or nothing was written to it */
	SWAP_BAD_POLICY, /* the VMM's owner would rather not */
	SWAP_BAD_LOOKUP, /* the symcall failed, or its answer does not fit */
	SWAP_BAD_PTE,    /* a proposal or an address of the entry that cannot be */
	SWAP_BAD_RACE,   /* another entry was there by then */
};

struct swapbypass;
struct vcpu;

/* On the vCPU's thread, after VCPU_HYPERCALL for a fault: goes on with what the hook decided. 0 or
 * -errno. */
int swapmap_go_on(struct swapbypass *bypass, struct vcpu *vcpu, int allowed);
/* cffi: end */

/* The fault that one vCPU has under way. */
struct swapmap {
	struct symcall_call call;
	struct swapbypass *bypass;
	uint64_t vaddr;
	uint64_t slot;
	uint64_t old;
	uint64_t proposed;
};

/* Claims the number on the bus of hypercalls: 0 or the error of bus_add(). */
int swapmap_attach(struct swapbypass *bypass, struct bus *hypercalls);

#endif
