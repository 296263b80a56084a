/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deadline of symcalls. One thread a machine looks at its vCPUs a few times within a deadline
 * and kicks the one that is still in the same call. It counts its own turns, not the clock, so that
 * a VMM that was stopped, or a host that slept, takes no call for late. While nobody calls it
 * sleeps; a call itself costs no system call.
 */
#ifndef PYVMM_SYMBIOTIC_WATCH_H
#define PYVMM_SYMBIOTIC_WATCH_H

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
struct symcall_watch;

/* For at most `cpus` vCPUs; milliseconds of at least 8. NULL and errno on failure. */
struct symcall_watch *symcall_watch_create(uint32_t milliseconds, uint32_t cpus);
void symcall_watch_destroy(struct symcall_watch *watch);
/* cffi: end */

struct vcpu;

/* The calls of a vCPU that it watches, which are counted at their beginning and at their end. */
struct symcall_watched {
	struct vcpu *vcpu;
	uint64_t sequence; /* odd while a call is under way */
	uint64_t late;     /* the one that was too late */
};

/* It must live as long as the watch. 0 or -ENOSPC. */
int symcall_watch_add(struct symcall_watch *watch, struct symcall_watched *watched);

/* A call begins, or is over. */
static inline void symcall_watch_count(struct symcall_watched *watched)
{
	__atomic_store_n(&watched->sequence, watched->sequence + 1, __ATOMIC_SEQ_CST);
}

/* After VCPU_REQUEST_LATE: whether it is the call under way that is late. */
static inline bool symcall_watch_is_late(const struct symcall_watched *watched)
{
	return __atomic_load_n(&watched->late, __ATOMIC_ACQUIRE) == watched->sequence;
}

/* A call begins: the watch wakes if it sleeps. */
void symcall_watch_begin(struct symcall_watch *watch);

#endif
