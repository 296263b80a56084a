/* SPDX-License-Identifier: Apache-2.0 */
/* Symcalls that other threads ask for. */
#ifndef PYVMM_SYMBIOTIC_QUEUE_H
#define PYVMM_SYMBIOTIC_QUEUE_H

#include "symbiotic/symcall.h"

/* cffi: begin */
/*
 * From any other thread: asks for the call. From here until symcall_wait() or symcall_withdraw()
 * returns 1 it belongs to the vCPU's thread: nobody else may look at its message or destroy it.
 */
void symcall_post(struct vcpu *vcpu, struct symcall_call *call);
/* 1 when it is over, 0 if the time passed first. */
int symcall_wait(struct vcpu *vcpu, struct symcall_call *call, uint32_t milliseconds);
/* 1 if the call had not begun and never will, 0 if it is to be waited for. */
int symcall_withdraw(struct vcpu *vcpu, struct symcall_call *call);
/* Instead of symcall_call_destroy(), at any time and without waiting: takes the call back if it has
 * not begun, and frees it. One that is under way is freed by the vCPU's thread, at its end. */
void symcall_disown(struct vcpu *vcpu, struct symcall_call *call);

/* True if calls of other threads wait. */
int symcall_pending(struct vcpu *vcpu);

/* The vCPU runs no more: every caller is told so, now and later. */
void symcall_close(struct vcpu *vcpu);
/* cffi: end */

/* On the vCPU's thread: begins the first call that waits. An overlay's request. */
int symcall_next(struct vcpu *vcpu);

#endif
