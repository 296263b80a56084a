/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SymCall: calls of the VMM into the guest kernel. The guest registers where they enter; the VMM
 * puts the vCPU there at an exit, lets it run until the return doorbell, and gives the interrupted
 * context back as it was. docs/symbiotic.md, "SymCall".
 *
 * A call is part of the vCPU loop: while one is active, vcpu_run() serves its exits as any others,
 * hooks of Python included. It ends in one of three ways: a C caller is called back, a caller on
 * the vCPU's own thread gets VCPU_SYMCALL, a caller on another thread is woken.
 */
#ifndef PYVMM_SYMBIOTIC_SYMCALL_H
#define PYVMM_SYMBIOTIC_SYMCALL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "machine/bus.h"
#include "symbiotic/context.h"
#include "symbiotic/frame.h"
#include "symbiotic/hold.h"
#include "symbiotic/replay.h"
#include "symbiotic/symspy.h"

/* cffi: begin */
enum {
	SYMCALL_MSR_RIP = 0x536,
	SYMCALL_MSR_RSP = 0x537,
	SYMCALL_MSR_CS = 0x538,
	SYMCALL_MSR_GS = 0x539,
	SYMCALL_MSR_CR3_CLEAR = 0x53a,
	SYMCALL_MSR_PROMISES = 0x53b,
	SYMCALL_MSR_FS = 0x540,

	SYMCALL_NUMBER_TEST = 1,
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

/* What passes between the caller and the guest. */
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
struct symcall_watch;
struct vcpu;

/* What symcall_create() is to know of this KVM. */
struct symcall_setup {
	uint32_t xsave_size;           /* of KVM_CAP_XSAVE2, 0 without it */
	uint32_t can_block_interrupts; /* KVM_GUESTDBG_BLOCKIRQ */
	uint32_t nested;               /* the guest may have guests */
	uint32_t svm;                  /* the back end is kvm_amd */
};

/* Makes the vCPU one that can be called; destroyed with symcall_destroy() before the vCPU is.
 * NULL and errno on failure. */
struct symcall *symcall_create(struct vcpu *vcpu, struct symspy *symspy,
                               struct symcall_watch *watch, const struct symcall_setup *setup);
void symcall_destroy(struct symcall *symcall);
struct symcall_counters *symcall_counters(struct symcall *symcall);

/* Claims the MSRs on the bus, for all vCPUs: 0 or the error of bus_add(). */
int symcall_attach(struct bus *msr);

struct symcall_call *symcall_call_create(void);
void symcall_call_destroy(struct symcall_call *call);
struct symcall_message *symcall_message(struct symcall_call *call);

/*
 * On the vCPU's own thread, in a hook: makes the call. VCPU_SYMCALL: it is over, see the message.
 * Any other event: serve it as one of vcpu_run(), then go on with symcall_continue(). `given`,
 * `wanted` and the data are the caller's to set before.
 */
int symcall_make(struct vcpu *vcpu, struct symcall_call *call, uint64_t number, uint64_t rbx,
                 uint64_t rcx, uint64_t rdx, uint64_t rsi, uint64_t rdi);
int symcall_continue(struct vcpu *vcpu, struct symcall_call *call);

/* On the vCPU's own thread: gives up a call that is under way, with that status, or that an event
 * kept from beginning. */
void symcall_abandon(struct vcpu *vcpu, struct symcall_call *call, uint32_t status);

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

/* Whether calls of other threads wait. */
int symcall_pending(struct vcpu *vcpu);

/* The vCPU runs no more: every caller is told so, now and later. */
void symcall_close(struct vcpu *vcpu);
/* cffi: end */

/* Called when a call made by C is over, before the interrupted context goes on; may change the
 * registers it goes on with. Returns 0 or an enum vcpu_event. */
typedef int symcall_done(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs);

/* A call of C code, during the doorbell's exit: 0 if it began, VCPU_SYMCALL if it was refused, and
 * `done` comes when it is over. */
int symcall_begin_c(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done);

struct symcall_call {
	struct symcall_message message;
	symcall_done *done; /* a C caller */
	bool local;         /* a caller on the vCPU's own thread */
	struct frame frame;

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
	struct context context; /* what the active call interrupted */
	uint32_t linger;        /* exits until the shared registers are given up again */

	/* For the watch: counts calls, odd while one is active; and which one is too late. */
	uint64_t sequence;
	uint64_t late;

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

/* For the vCPU loop. */
int symcall_returned(struct vcpu *vcpu);             /* the doorbell said so */
int symcall_next(struct vcpu *vcpu);                 /* begins a call of another thread */
int symcall_late(struct vcpu *vcpu);                 /* the watch rang */
int symcall_collapsed(struct vcpu *vcpu, int event); /* the handler brought the vCPU down */
/* An exit while KVM shares the registers: true when it is served already. */
bool symcall_lingered(struct vcpu *vcpu);

/* The flags of a vCPU's page, which the guest may change at any time. */
static inline uint32_t *symcall_flags(uint8_t *page)
{
	enum { PAGE_FLAGS = 0x008 };

	return (uint32_t *)(page + PAGE_FLAGS);
}

/* Counts the beginning and the end of a call, for the watch. */
static inline void symcall_count(struct symcall *symcall)
{
	__atomic_store_n(&symcall->sequence, symcall->sequence + 1, __ATOMIC_SEQ_CST);
}

/* Between the parts of it: ends a call that did not begin, returns VCPU_SYMCALL; begins one of
 * another thread, 0 or VCPU_SYMCALL; gives a call that is over back to the thread that posted it,
 * which may free it at once. */
int symcall_refuse(struct symcall_call *call, enum symcall_status status, const char *text);
int symcall_begin_posted(struct symcall *symcall, struct symcall_call *call);
void symcall_give_back(struct symcall *symcall, struct symcall_call *call);

/* The doorbell's part: what the guest said, with registers that are fresh. */
void symcall_outcome(struct vcpu *vcpu, bool failed);

/* Makes the shared registers fresh: 0 or -errno. */
int symcall_freshen(struct vcpu *vcpu);

#endif
