/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision whether the guest may go on to use swapped pages where they lie, and how the store
 * may grow: a thread that looks at the host once a second, and tells the guest when the answer
 * changes. A fault then costs a look at a flag.
 *
 * A host that is short of memory loses nothing by a page that is used where it lies, for it is
 * there either way. A guest that has to read it instead writes another one out to make room, and
 * the host has both. So pressure refuses growth and not use: the store grows by small pages then.
 */
#ifndef PYVMM_SWAP_GOVERNOR_H
#define PYVMM_SWAP_GOVERNOR_H

#include <stdint.h>

#include "host/memory.h"

/* cffi: begin */
enum swap_policy {
	SWAP_POLICY_ALWAYS,
	SWAP_POLICY_NEVER,
	SWAP_POLICY_PRESSURE, /* always; while the host has memory the store may grow by huge pages
	                       */
	SWAP_POLICY_QUOTA,    /* while the store takes no more than so many bytes */
};

enum {
	/* Hundredths of a percent. Pressure begins at the first of each, and is over at the second,
	 * so that it does not come and go with each look. */
	SWAPGOVERNOR_STALL = 1000, /* of time, waited for memory */
	SWAPGOVERNOR_STALL_OVER = 500,
	SWAPGOVERNOR_SCARCE = 500, /* of memory, left */
	SWAPGOVERNOR_SCARCE_OVER = 800,
};

struct swapbypass;
struct swapstore;
struct swapgovernor;

/* The verdict: 1 while all is well, 0 where the host has too little memory or the store too much,
 * or the policy is never; `before` is the last one. */
int swapgovernor_judge(uint32_t policy, uint64_t quota, uint64_t bytes,
                       const struct hostmemory *host, int before);

/* Looks every `milliseconds` into the files of hostmemory_read(). NULL and errno on failure. */
struct swapgovernor *swapgovernor_create(struct swapbypass *bypass, struct swapstore *store,
                                         const char *pressure, const char *meminfo,
                                         const char *group, uint32_t milliseconds);

/* Whoever waits comes back, now and later. */
void swapgovernor_end(struct swapgovernor *governor);
void swapgovernor_destroy(struct swapgovernor *governor);

/* Another policy, from any thread; judged at once. The quota is in bytes. */
void swapgovernor_set(struct swapgovernor *governor, uint32_t policy, uint64_t quota);

/* Waits for the next look that finds too little memory or too much used: 1; 0 after the time, -1
 * once it ends. */
int swapgovernor_wait(struct swapgovernor *governor, uint32_t milliseconds);

/* The last verdict, and the last look at the host. */
int swapgovernor_verdict(struct swapgovernor *governor, struct hostmemory *host);
/* cffi: end */

#endif
