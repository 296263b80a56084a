/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The access (to a port, MMIO or an MSR) for which a vCPU came out of the guest. What KVM says of
 * it is read once and checked, when the exit comes. Everything after that goes by the copy, because
 * a symcall that is made meanwhile brings other exits into the structure that KVM shares.
 */
#ifndef PYVMM_MACHINE_EXIT_H
#define PYVMM_MACHINE_EXIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
enum vcpu_access {
	VCPU_NO_ACCESS,
	VCPU_PORT,
	VCPU_MMIO,
	VCPU_MSR,
};

struct vcpu_exit {
	uint32_t access; /* enum vcpu_access */
	uint32_t is_write;
	uint64_t address;
	uint8_t *data;   /* what is written, or where KVM takes the answer from */
	uint32_t length; /* bytes of an element: 8 at most */
	uint32_t count;  /* elements: string I/O has several */
	uint32_t next;   /* the first that is not served */
};
/* cffi: end */

/* The page of struct kvm_run that carries port data. */
enum { VCPU_EXIT_DATA = 4096 };

struct kvm_run;

/* Copies an exit of that reason, if it is an access. False: what KVM says of it cannot be. */
bool vcpu_exit_take(struct vcpu_exit *exit, struct kvm_run *run, uint32_t run_size,
                    uint32_t reason);

/* The guest waits for an answer: for the bytes of a read, or whether it may write an MSR. */
static inline bool vcpu_exit_is_input(const struct vcpu_exit *exit)
{
	return exit->access && (!exit->is_write || exit->access == VCPU_MSR);
}

/* Bytes of all its elements, VCPU_EXIT_DATA at most; 0 for one that is no access. */
static inline uint32_t vcpu_exit_size(const struct vcpu_exit *exit)
{
	return exit->access ? exit->length * exit->count : 0;
}

static inline uint8_t *vcpu_exit_element(const struct vcpu_exit *exit)
{
	return exit->data + (size_t)exit->next * exit->length;
}

#endif
