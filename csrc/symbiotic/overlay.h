/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symcalls as a vCPU's overlay (machine/overlay.h): what they do at its exits, events and requests.
 */
#ifndef PYVMM_SYMBIOTIC_OVERLAY_H
#define PYVMM_SYMBIOTIC_OVERLAY_H

#include <stdint.h>

#include "symbiotic/symcall.h"

/* cffi: begin */
struct symcall_watch;

/* This KVM's properties, for symcall_create(). */
struct symcall_setup {
	uint32_t xsave_size;           /* of KVM_CAP_XSAVE2, 0 without it */
	uint32_t can_block_interrupts; /* KVM_GUESTDBG_BLOCKIRQ */
	uint32_t nested;               /* the guest may have guests */
	uint32_t svm;                  /* the back end is kvm_amd */
};

/* Makes the vCPU one that can be called; destroyed with symcall_destroy() before the vCPU is.
 * NULL and errno on failure. */
struct symcall *symcall_create(struct vcpu *vcpu, struct symspy *symspy,
                               struct symcall_watch *watch, const struct symcall_setup *setup);
void symcall_destroy(struct symcall *symcall);
/* cffi: end */

#endif
