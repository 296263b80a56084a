/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a symcall ends: the interrupted context is given back, and whoever made the call gets its end
 * by its `done`. On the vCPU's thread, with a call under way; what comes back is what `done` said,
 * or VCPU_IOCTL_FAILED.
 */
#ifndef PYVMM_SYMBIOTIC_END_H
#define PYVMM_SYMBIOTIC_END_H

#include <stdbool.h>

#include "machine/overlay.h"
#include "symbiotic/symcall.h"

/* The event of the doorbell by which the guest's handler returns. */
enum { SYMCALL_RETURNED = OVERLAY_EVENT };

/* The doorbell's part: what the guest said, with registers that are fresh. */
void symcall_outcome(struct vcpu *vcpu, bool failed);

int symcall_returned(struct vcpu *vcpu); /* the doorbell said so */
int symcall_late(struct vcpu *vcpu);     /* the watch rang; 0 where that is about an older call */
int symcall_collapsed(struct vcpu *vcpu, int event); /* the handler brought the vCPU down */

/* Somebody gives the call up. */
void symcall_cut_short(struct vcpu *vcpu, enum symcall_status status);

#endif
