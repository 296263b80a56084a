/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SymCall: calls of the VMM into the guest kernel. The guest registers where they enter; the VMM
 * puts the vCPU there at an exit, lets it run until the return doorbell, and gives the interrupted
 * context back as it was. docs/symbiotic.md, "SymCall".
 *
 * A call is part of the vCPU loop: while one is active, vcpu_run() serves its exits as any others,
 * hooks of Python included. Callers are C code in a doorbell's exit (begin.h), hooks on the vCPU's
 * own thread (local.h), and other threads (queue.h). Each gets the end of its call by the call's
 * `done`.
 *
 * Here is what all of them share: the record of a vCPU's calls, and a call.
 */
#ifndef PYVMM_SYMBIOTIC_SYMCALL_H
#define PYVMM_SYMBIOTIC_SYMCALL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <symbiotic.h>

#include "machine/vcpu.h"
#include "symbiotic/context.h"
#include "symbiotic/frame.h"
#include "symbiotic/hold.h"
#include "symbiotic/replay.h"
#include "symbiotic/symspy.h"
#include "symbiotic/watch.h"

/* cffi: begin */
enum {
	SYMCALL_REGISTERS = 5, /* RBX RCX RDX RSI RDI */
	SYMCALL_TEXT = 80,
};

enum symcall_status {
	SYMCALL_OK,
	SYMCALL_ERROR,    /* the guest's handler said so: message.error */
	SYMCALL_ABSENT,   /* the guest registered no entry */
	SYMCALL_DISABLED, /* the guest does not take calls now, or lost them by a deadline */
	SYMCALL_ACTIVE,   /* a call inside a call */
	SYMCALL_INVALID,  /* what the guest registered cannot be entered: message.text */
	SYMCALL_DEADLINE, /* the handler did not return in time */
	SYMCALL_FAULT,    /* the handler brought the vCPU down: message.text */
	SYMCALL_NESTED,   /* the vCPU runs a guest of the guest */
	SYMCALL_STOPPED,  /* the vCPU does not run (yet, or any more) */
	SYMCALL_HOST,     /* an ioctl failed: message.error is the errno */
};

/* Registers and data that pass between the caller and the guest. */
struct symcall_message {
	uint64_t number;
	uint64_t regs[5]; /* arguments, then results */
	uint64_t error;
	uint32_t status; /* enum symcall_status */
	uint32_t given;  /* bytes of data for the guest */
	uint32_t wanted; /* bytes of data to bring back */
	char text[80];
	uint8_t data[3072];
};

struct symcall_counters {
	uint64_t calls;
	uint64_t returned;
	uint64_t errors;
	uint64_t deadlines;
	uint64_t faults;
	uint64_t refused_absent;
	uint64_t refused_disabled;
	uint64_t refused_active;
	uint64_t refused_invalid;
	uint64_t stray_returns;
	uint64_t doorbells;
	uint64_t doorbells_refused;
	uint64_t msr_refused;
	uint64_t reregistered;
};

struct symcall; /* of one vCPU */
struct symcall_call;
struct vcpu;

struct symcall_counters *symcall_counters(struct symcall *symcall);

struct symcall_call *symcall_call_create(void);
void symcall_call_destroy(struct symcall_call *call);
struct symcall_message *symcall_message(struct symcall_call *call);

/* On the vCPU's own thread: whether a call is under way, and the number of the last one that was.
 */
int symcall_is_active(const struct vcpu *vcpu);
uint64_t symcall_number(const struct vcpu *vcpu);
/* cffi: end */

/* Called when a call is over, on the vCPU's thread, before the interrupted context goes on; may
 * change the registers that it goes on with, and nobody looks at the call afterwards. Returns 0 or
 * an enum vcpu_event. */
typedef int symcall_done(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs);

struct symcall_call {
	struct symcall_message message;
	symcall_done *done;
	struct frame frame; /* of a hook's call */

	/* Of a call of another thread, with the lock of the queue held. */
	bool posted;   /* the vCPU's thread has it */
	bool disowned; /* nobody waits for it */
	struct symcall_call *next;
};

struct symcall {
	struct vcpu *vcpu;
	struct symspy *symspy;
	struct symcall_watch *watch;
	bool nested;
	bool disabled;
	struct context_entry entry;

	struct symcall_call *active;
	uint64_t number;        /* of it, or of the last one */
	struct context context; /* what the active call interrupted */
	uint32_t linger;        /* exits until the shared registers are given up again */

	struct symcall_watched watched;
	struct replay replay;
	struct hold hold;
	struct symcall_counters counters;
	struct symcall_call *echo; /* for the doorbell's own test */

	pthread_mutex_t lock; /* of the queue */
	pthread_cond_t over;
	struct symcall_call *first;
	struct symcall_call *last;
	bool closed;
};

/* Ends a call that did not begin: VCPU_SYMCALL. */
int symcall_refuse(struct symcall_call *call, enum symcall_status status, const char *text);

#endif
