/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deadline of symcalls. One thread a machine looks at its vCPUs a few times within a deadline
 * and kicks the one that is still in the same call. It counts its own turns, not the clock, so that
 * a VMM that was stopped, or a host that slept, takes no call for late. While nobody calls it
 * sleeps; a call itself costs no system call.
 */
#ifndef PYVMM_SYMBIOTIC_WATCH_H
#define PYVMM_SYMBIOTIC_WATCH_H

#include <stdint.h>

/* cffi: begin */
struct symcall_watch;

/* For at most `cpus` vCPUs; milliseconds of at least 8. NULL and errno on failure. */
struct symcall_watch *symcall_watch_create(uint32_t milliseconds, uint32_t cpus);
void symcall_watch_destroy(struct symcall_watch *watch);
/* cffi: end */

struct symcall;

int symcall_watch_add(struct symcall_watch *watch, struct symcall *symcall);

/* A call begins: the watch wakes if it sleeps. */
void symcall_watch_begin(struct symcall_watch *watch);

#endif
