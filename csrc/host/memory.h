/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the host stands with memory: what is left of it, how long tasks wait for it (pressure stall
 * information), and the same of the control group that the VMM runs in.
 */
#ifndef PYVMM_HOST_MEMORY_H
#define PYVMM_HOST_MEMORY_H

#include <stdint.h>

/* cffi: begin */
struct hostmemory {
	/* Hundredths of a percent of the last ten seconds in which some task waited for memory, the
	 * larger of host and group; -1 where the kernel does not say. */
	int64_t stall;
	uint64_t total;     /* bytes of the host, 0 if it does not say */
	uint64_t available; /* without swapping */
	uint64_t limit;     /* bytes that the group may have, 0 for no limit */
	uint64_t room;      /* what it may still take, caches that can be dropped included */
};

/* Reads the files of the kernel: those of pressure and meminfo, and the folder of a control group
 * (version 2). What is not there, or not named (""), is unknown. */
void hostmemory_read(struct hostmemory *host, const char *pressure, const char *meminfo,
                     const char *group);
/* cffi: end */

#endif
