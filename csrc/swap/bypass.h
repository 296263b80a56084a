/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SwapBypass: the guest uses a page that it swapped out where it lies, in the swap disk's memory,
 * which it sees as the aperture. docs/symbiotic.md, "SwapBypass". Here are
 * - what the VMM offers, and what the guest took of it;
 * - a fault on a page in the store, put before the VMM: may the guest use the page where it lies,
 *   and if so, the VMM writes the page table entry. The guest is asked by a symcall where that
 *   entry is, and nothing it says is believed.
 */
#ifndef PYVMM_SWAP_BYPASS_H
#define PYVMM_SWAP_BYPASS_H

#include <pthread.h>
#include <stdint.h>

#include "machine/bus.h"
#include "machine/memory.h"
#include "swap/store.h"
#include "symbiotic/symcall.h"
#include "symbiotic/symspy.h"

/* cffi: begin */
enum {
	SWAPBYPASS_NO_HOOK = 0xffffffff,
};

struct swapbypass_counters {
	uint64_t attached; /* times */
	uint64_t detached;
	uint64_t refused;    /* of the two calls above */
	uint64_t discarded;  /* slots, by a tier */
	uint64_t asked;      /* pages that a tier would move in mode symcall */
	uint64_t granted;    /* of them */
	uint64_t offered;    /* faults */
	uint64_t answers[7]; /* to them, from SYMBIOTIC_SWAP_MAPPED on */
};

struct swapbypass;
struct vcpu;

/* For a machine of `cpus` vCPUs, with nothing to offer so far. NULL and errno on failure. */
struct swapbypass *swapbypass_create(struct symspy *symspy, const struct guest_memory *memory,
                                     uint32_t cpus);
void swapbypass_destroy(struct swapbypass *bypass);

/* Claims its numbers on the bus of hypercalls: 0 or the error of bus_add(). */
int swapbypass_attach(struct swapbypass *bypass, struct bus *hypercalls);

/* Announces a store; `swap->mode` is what the VMM's owner wants. Before the guest runs: 0, -EINVAL
 * for sizes that do not agree, -EEXIST. The store must live until the vCPUs have stopped. */
int swapbypass_offer(struct swapbypass *bypass, struct swapstore *store,
                     const struct symspy_swap *swap);

/* The mode that is wanted, and whether there may be one but off now; any thread, at any time. */
void swapbypass_want(struct swapbypass *bypass, uint32_t mode);
void swapbypass_allow(struct swapbypass *bypass, int allowed);

/* With direct mode wanted the guest is told symcall from then on. Each fault that is offered comes
 * back from vcpu_run() as VCPU_HYPERCALL with that hook, which goes on with swapmap_go_on();
 * SWAPBYPASS_NO_HOOK: no longer. */
void swapbypass_ask(struct swapbypass *bypass, uint32_t hook);

/* On the vCPU's thread, after VCPU_HYPERCALL for a fault: goes on with what the hook decided. 0 or
 * -errno. */
int swapmap_go_on(struct swapbypass *bypass, struct vcpu *vcpu, int allowed);

/* The same after VCPU_HYPERCALL for pages that are to move: so many may. */
int swapmove_go_on(struct swapbypass *bypass, struct vcpu *vcpu, uint64_t pages);

/* The mode that the guest is told now, SYMBIOTIC_SWAP_OFF and so on. */
uint32_t swapbypass_mode(struct swapbypass *bypass);

/* True if the guest uses the aperture, by its own word; and if pages move there, so that the disk
 * is none. */
int swapbypass_is_attached(struct swapbypass *bypass);
int swapbypass_is_tier(struct swapbypass *bypass);
void swapbypass_count(struct swapbypass *bypass, struct swapbypass_counters *counters);
/* cffi: end */

enum { ATTACHED_NOT, ATTACHED_AS_SWAP, ATTACHED_AS_TIER };

/* The fault that one vCPU has under way. */
struct swapmap {
	struct symcall_call call;
	struct swapbypass *bypass;
	uint64_t vaddr;
	uint64_t slot;
	uint64_t old;
	uint64_t proposed;
};

struct swapbypass {
	struct symspy *symspy;
	const struct guest_memory *memory;
	struct swapstore *store; /* NULL: nothing is offered */
	struct symspy_swap offer;

	pthread_mutex_t lock; /* among those who change what is announced */
	uint32_t wanted;      /* atomic, as all that follows */
	uint32_t allowed;
	uint32_t attached; /* ATTACHED_NOT and so on */
	uint32_t hook;
	struct swapbypass_counters counters;
	struct swapmap maps[]; /* one a vCPU, its own */
};

#endif
