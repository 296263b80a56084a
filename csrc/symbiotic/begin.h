/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a symcall begins: whether the vCPU takes one, and what becomes of the exit at hand.
 *
 * All are called on the vCPU's thread. 0: the call has begun, and `done` comes when it is over.
 * VCPU_SYMCALL: it was refused, the message says why, and `done` does not come.
 */
#ifndef PYVMM_SYMBIOTIC_BEGIN_H
#define PYVMM_SYMBIOTIC_BEGIN_H

#include "symbiotic/symcall.h"

/* During the doorbell's exit, or another one that is settled and whose registers are fresh. */
int symcall_begin(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done);

/* Between two exits. A vCPU that waits for its start, or that KVM does not let us wake, takes no
 * call. */
int symcall_begin_posted(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done);

/* During an input that is not settled: it is put aside, to come again (replay.h). Or
 * VCPU_UNFINISHED.
 */
int symcall_begin_in_input(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done);

/* During any other exit, which is completed first. It may have more to it, which is then served: an
 * event of that comes back, and the call has not begun. */
int symcall_begin_settled(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done);

/* True if the vCPU takes a call at all, as far as that shows without its registers: 0 or
 * VCPU_SYMCALL. */
int symcall_check(struct symcall *symcall, struct symcall_call *call);

/* Makes the shared registers fresh: 0 or -errno. */
int symcall_freshen(struct vcpu *vcpu);

#endif
