/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An input of the guest (a read of a port, of MMIO, an MSR access) during which a symcall is made.
 *
 * KVM cannot put such an instruction aside: once its exit came, the next KVM_RUN finishes it. So it
 * is finished with zeros, the vCPU gets the state back that it had before the instruction, and the
 * guest executes it again; the exit that this brings is answered with what the hook answered to the
 * first one. Interrupts are held off meanwhile (symbiotic/hold.h).
 *
 * An instruction that reads MMIO in several parts has an exit for each. The parts before the one
 * that was put aside come again too, and get the answers they had.
 *
 * A repeated string instruction has an exit for each element that is MMIO. KVM puts the registers
 * behind an element before it goes on to the next (x86_emulate_insn() in arch/x86/kvm/emulate.c):
 * those before the instruction are, at an exit, those before the element at hand, and executing it
 * again begins there. KVM does not come back to the guest's instructions in between for 1024
 * elements, so that the one at hand is made the last: RCX, which the emulator reads anew when it is
 * set meanwhile, is 1 when KVM finishes it. No other element is read or written with zeros then.
 */
#ifndef PYVMM_SYMBIOTIC_REPLAY_H
#define PYVMM_SYMBIOTIC_REPLAY_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "machine/vcpu.h"
#include "symbiotic/hold.h"

enum { REPLAY_PARTS = 8 }; /* more exits than any instruction needs to read MMIO once */

enum replay_state {
	REPLAY_NONE,
	REPLAY_WANTED, /* the instruction was finished with zeros; its answer is not known yet */
	REPLAY_READY,  /* the guest is about to execute it again */
};

/* An answered read of MMIO. */
struct replay_part {
	uint64_t address;
	uint32_t length;
	uint8_t data[8];
};

struct replay {
	struct hold *hold;
	enum replay_state state;
	uint64_t rip;
	uint64_t rsp;
	struct vcpu_exit exit;
	bool refused; /* an MSR access */
	uint32_t data_size;
	uint8_t data[VCPU_EXIT_DATA];
	struct replay_part parts[REPLAY_PARTS]; /* the last ones, in a ring */
	uint32_t next_part;
};

/* Remembers the answer to a read of MMIO. */
void replay_remember(struct replay *replay, const struct vcpu_exit *exit);

/* True if the exit at hand is an input that a symcall has to put aside. */
bool replay_needed(const struct vcpu *vcpu);

/* Gets rid of the exit at hand, at which the registers are these: 0 or VCPU_UNFINISHED. */
int replay_put_aside(struct replay *replay, struct vcpu *vcpu, const struct kvm_regs *regs);

/* The same for an exit that does not come again, of code that does not go on. */
int replay_abandon(struct vcpu *vcpu);

/* Takes the answer, once the exit is wholly served, if one is wanted. */
void replay_take_answer(struct replay *replay, struct vcpu *vcpu);

/* If the exit at hand is the one to come again, gives the answer and returns true. */
bool replay_serve(struct replay *replay, struct vcpu *vcpu);

#endif
