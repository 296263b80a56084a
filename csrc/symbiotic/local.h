/* SPDX-License-Identifier: Apache-2.0 */
/* Symcalls that a hook makes, on the thread of its vCPU. */
#ifndef PYVMM_SYMBIOTIC_LOCAL_H
#define PYVMM_SYMBIOTIC_LOCAL_H

#include "symbiotic/symcall.h"

/* cffi: begin */
/*
 * On the vCPU's own thread, in a hook: makes the call. VCPU_SYMCALL: it is over, see the message.
 * Any other event: serve it as one of vcpu_run(), then go on with symcall_continue(). `given`,
 * `wanted` and the data are the caller's to set before.
 */
int symcall_make(struct vcpu *vcpu, struct symcall_call *call, uint64_t number, uint64_t rbx,
                 uint64_t rcx, uint64_t rdx, uint64_t rsi, uint64_t rdi);
int symcall_continue(struct vcpu *vcpu, struct symcall_call *call);

/* On the vCPU's own thread: gives up a call that is under way, with that status, or that an event
 * kept from beginning. */
void symcall_abandon(struct vcpu *vcpu, struct symcall_call *call, uint32_t status);
/* cffi: end */

#endif
