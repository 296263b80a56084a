/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An input of the guest (a read of a port, of MMIO, an MSR access) during which a symcall is made.
 *
 * KVM cannot put such an instruction aside: once its exit came, the next KVM_RUN finishes it. So it
 * is finished with zeros, the vCPU gets the state back that it had before the instruction, and the
 * guest executes it again; the exit that this brings is answered with what the hook answered to the
 * first one. Interrupts are held off meanwhile (hold.h).
 *
 * An instruction that reads MMIO in several parts has an exit for each. The parts before the one
 * that was put aside come again too, and get the answers they had.
 */
#ifndef PYVMM_REPLAY_H
#define PYVMM_REPLAY_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct vcpu;

enum {
	REPLAY_DATA = 4096, /* the page of struct kvm_run that carries port data */
	/* The part of struct kvm_run that tells of an exit. */
	REPLAY_EXIT = 256,
	REPLAY_PARTS = 8, /* more exits than any instruction needs to read MMIO */
};

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
	enum replay_state state;
	uint32_t reason;
	uint64_t rip;
	uint64_t rsp;
	uint32_t data_size;
	uint8_t exit[REPLAY_EXIT];
	uint8_t data[REPLAY_DATA];
	struct replay_part parts[REPLAY_PARTS]; /* the last ones, in a ring */
	uint32_t next_part;
};

/* The part of struct kvm_run that tells of an exit; the port data of one of that reason, and its
 * bytes: 0 for anything but a port access. */
uint8_t *replay_exit_of(struct kvm_run *run);
uint8_t *replay_data_of(struct kvm_run *run);
uint32_t replay_data_size(const struct kvm_run *run, uint32_t reason);

/* Remembers the answer to the read of MMIO at hand. */
void replay_remember(struct vcpu *vcpu);

/* Whether the exit at hand is an input that a symcall has to put aside. */
bool replay_needed(const struct vcpu *vcpu);

/* Gets rid of the exit at hand, whose instruction began with these registers: 0 or -errno. */
int replay_abandon(struct vcpu *vcpu, const struct kvm_regs *regs);

/* Takes the answer, once the exit is wholly served, if one is wanted. */
void replay_take_answer(struct vcpu *vcpu);

/* If the exit at hand is the one to come again, gives the answer and returns true. */
bool replay_serve(struct vcpu *vcpu);

#endif
