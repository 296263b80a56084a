/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holding interrupts and NMIs off a vCPU: they wait in KVM until it is over (api.rst,
 * KVM_SET_GUEST_DEBUG, KVM_GUESTDBG_BLOCKIRQ).
 *
 * Held are those that would come between the two executions of an input (symbiotic/replay.h), and
 * those of a handler that interrupted an NMI being served. KVM's SVM lets the next NMI in when RIP
 * is no longer that of the IRET at which it found the first (svm_complete_interrupts() in
 * arch/x86/kvm/svm/svm.c). A call that is made there changes RIP while that IRET is still to come:
 * an NMI during the handler would have the same stack, and the IRET would return into the handler.
 */
#ifndef PYVMM_SYMBIOTIC_HOLD_H
#define PYVMM_SYMBIOTIC_HOLD_H

#include <stdbool.h>

struct vcpu;

struct hold {
	bool possible; /* KVM can do it */
	bool on;
};

/* Where KVM cannot, or refuses, nothing happens. */
void hold_interrupts(struct hold *hold, struct vcpu *vcpu, bool on);

#endif
