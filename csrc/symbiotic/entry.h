/* SPDX-License-Identifier: Apache-2.0 */
/* The MSRs by which a guest registers where symcalls enter it. */
#ifndef PYVMM_SYMBIOTIC_ENTRY_H
#define PYVMM_SYMBIOTIC_ENTRY_H

#include "machine/bus.h"

/* cffi: begin */
/* Claims the MSRs on the bus, for all vCPUs: 0 or the error of bus_add(). */
int symcall_attach(struct bus *msr);
/* cffi: end */

#endif
