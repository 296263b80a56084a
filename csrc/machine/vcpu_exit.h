/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The access (to a port, MMIO or an MSR) for which a vCPU came out of the guest. What KVM says of
 * it is read once and checked, when the exit comes. Everything after that goes by the copy, because
 * a symcall that is made meanwhile brings other exits into the structure that KVM shares.
 */
#ifndef PYVMM_MACHINE_VCPU_EXIT_H
#define PYVMM_MACHINE_VCPU_EXIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/vcpu.h"

/* The page of struct kvm_run that carries port data. */
enum { VCPU_EXIT_DATA = 4096 };

/* Copies an exit of that reason to vcpu->exit, if it is an access. False: it cannot be one. */
bool vcpu_exit_take(struct vcpu *vcpu, uint32_t reason);

/* The guest waits for an answer: for the bytes of a read, or whether it may write an MSR. */
static inline bool vcpu_exit_is_input(const struct vcpu *vcpu)
{
	const struct vcpu_exit *exit = &vcpu->exit;

	return exit->bus && (!exit->is_write || exit->bus == vcpu->msr);
}

/* Bytes of all its elements, VCPU_EXIT_DATA at most; 0 for one that is no access. */
static inline uint32_t vcpu_exit_size(const struct vcpu_exit *exit)
{
	return exit->bus ? exit->length * exit->count : 0;
}

static inline uint8_t *vcpu_exit_element(const struct vcpu_exit *exit)
{
	return exit->data + (size_t)exit->next * exit->length;
}

#endif
