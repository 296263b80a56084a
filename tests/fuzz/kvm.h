/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands for KVM under the vCPU loop: what each KVM_RUN comes back with is in the input. It holds
 * the vCPU's registers as KVM does, takes and gives the shared ones as KVM_CAP_SYNC_REGS has it,
 * and aborts where a symcall did not give back the context that it interrupted.
 */
#ifndef FUZZ_KVM_H
#define FUZZ_KVM_H

#include <linux/kvm.h>

#include "input.h"

struct kvm_world {
	struct input *input;
	struct kvm_run *run;
	struct vcpu *vcpu;
	uint8_t *ram;
	uint32_t ram_bytes;
	struct symspy *symspy;
	void (*between)(struct kvm_world *world); /* other threads' turn, inside of KVM_RUN */
	void *opaque;
};

/* From now on KVM is this one. */
void kvm_begin(struct kvm_world *world);

/* A number that a guest might use: an address, an edge, anything. */
uint64_t kvm_some_number(struct input *input);

#endif
