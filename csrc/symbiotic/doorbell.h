/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doorbell, by which a guest kernel calls the VMM: a 32-bit write to port 0x7e with the number
 * of the call, its arguments and results in RBX, RCX, RDX, RSI and RDI. docs/symbiotic.md, "The
 * doorbell".
 *
 * Why this port: KVM completes a write to it before it exits, unlike any other, so that the
 * registers are those after the instruction and nothing is left to settle.
 */
#ifndef PYVMM_SYMBIOTIC_DOORBELL_H
#define PYVMM_SYMBIOTIC_DOORBELL_H

#include <stdint.h>
#include <symbiotic.h>

#include "machine/bus.h"

/* cffi: begin */
struct vcpu;

/* Claims the port, and the VMM's own numbers on the bus of hypercalls: 0 or the error of bus_add().
 */
int doorbell_attach(struct bus *pio, struct bus *hypercalls);

/* On the vCPU's thread, after VCPU_HYPERCALL: what RAX says, and up to five results. 0 or -errno.
 */
int doorbell_answer(struct vcpu *vcpu, uint64_t rax, const uint64_t *results, uint32_t count);
/* cffi: end */

/* The same in a handler of a hypercall, where the registers are at hand. */
void doorbell_reply(struct vcpu *vcpu, uint64_t rax, const uint64_t *results, uint32_t count);

#endif
