/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU loop: enters the guest, serves its exits, and comes back to the caller only for an event
 * that somebody outside has to know: a hooked access, a request by another thread, or the end of
 * the guest.
 */
#ifndef PYVMM_MACHINE_VCPU_H
#define PYVMM_MACHINE_VCPU_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "machine/bus.h"
#include "machine/exit.h"

/* cffi: begin */
enum vcpu_event {
	VCPU_KICKED = 1, /* vcpu_take_requests() says by whom */
	VCPU_HOOK,       /* `access` and `hook` describe it; a read's answer goes to access.value */
	VCPU_HALTED,     /* HLT with no interrupt controller in the kernel */
	VCPU_DEBUG,      /* guest debug: a breakpoint or a single step */
	VCPU_SYMCALL,    /* a symcall of this thread is over */
	VCPU_HYPERCALL,  /* `hypercall` and `hook` describe it; doorbell_answer() answers */
	/* The guest ended the machine. */
	VCPU_POWEROFF,
	VCPU_REBOOT,
	VCPU_TRIPLE_FAULT,
	VCPU_PANIC,
	/* Something went wrong. */
	VCPU_INTERNAL_ERROR, /* KVM_EXIT_INTERNAL_ERROR */
	VCPU_ENTRY_FAILURE,  /* KVM_EXIT_FAIL_ENTRY */
	VCPU_UNKNOWN_EXIT,   /* an exit this VMM has no answer to: exit_reason */
	VCPU_IOCTL_FAILED,   /* KVM_RUN itself: error is the errno */
	VCPU_UNFINISHED,     /* an instruction that a symcall put aside did not end: the same */
};

enum {
	VCPU_EXIT_KINDS = 48, /* exits of a kind beyond that are counted in slot 0 (unknown) */

	/* Requests, a bit each. */
	VCPU_REQUEST_PAUSE = 1,
	VCPU_REQUEST_STOP = 2,
	VCPU_REQUEST_OVERLAY = 4, /* another thread has something for the overlay */
	VCPU_REQUEST_LATE = 8,    /* what the overlay has the guest do takes too long */
	VCPU_REQUEST_LOOK = 16,   /* somebody wants to know how the vCPU is */

	/* Those that a vCPU heeds: all, or only these, while an overlay has the guest do
	 * something. That is short, or too late, and the others wait. */
	VCPU_HEED_ALL = 23,
	VCPU_HEED_URGENT = 10,
};

struct vcpu_overlay;
struct symcall;

struct vcpu {
	int fd;
	uint32_t index;
	struct kvm_run *run;
	uint32_t run_size;
	struct bus *buses[4]; /* by enum vcpu_access; the first is none */

	struct vcpu_exit exit;    /* the access at hand */
	struct bus_access access; /* the element of it that a hook serves */
	uint32_t hook;
	uint32_t hook_pending;
	uint32_t exit_reason; /* of the last exit */
	int error;
	uint32_t broken; /* VCPU_UNFINISHED came */

	uint32_t settled;   /* the last exit left nothing open in KVM */
	uint32_t may_sleep; /* the last KVM_RUN came back without an exit: maybe from a HLT */
	uint32_t touched;   /* somebody outside may have set registers since the last KVM_RUN */
	uint32_t held;      /* the guest goes on only where an overlay has it do something */

	const struct vcpu_overlay *overlay; /* machine/overlay.h; NULL for none */
	uint32_t watched;                   /* OVERLAY_*: who looks at exits */
	uint32_t heeds;                     /* VCPU_HEED_* */
	struct symcall *symcall;            /* the overlay's; NULL: the guest cannot be called */
	uint64_t hypercall[6];              /* the number, RBX RCX RDX RSI RDI */

	uint32_t requests;
	int tid; /* of the thread that runs this vCPU, 0 for none */

	uint64_t exits[48]; /* VCPU_EXIT_KINDS */
	uint64_t unclaimed; /* accesses that nobody answered */
};

/* The run structure is given as the address where it is mapped, and how many bytes are
 * (KVM_GET_VCPU_MMAP_SIZE). NULL and errno on failure. */
struct vcpu *vcpu_create(int fd, uint32_t index, uintptr_t run, uint32_t run_size, struct bus *pio,
                         struct bus *mmio, struct bus *msr);
void vcpu_destroy(struct vcpu *vcpu);

/* Tie the vCPU to the calling thread (so that kicks reach it) and untie it. */
void vcpu_attach(struct vcpu *vcpu);
void vcpu_detach(struct vcpu *vcpu);

/*
 * Runs the guest until an event, an enum vcpu_event. On the attached thread. When it comes back
 * for a request the last exit is settled: the registers are those after the instruction. To stop it
 * waits for one hook at most: it leaves what an instruction with more accesses has yet to do, and
 * never runs again (VCPU_UNFINISHED). A vCPU that is held comes back (VCPU_KICKED) once no symcall
 * is under way or waits.
 */
int vcpu_run(struct vcpu *vcpu);

/* For those who get or set registers by ioctls while the vCPU stands: KVM gets what the shared
 * structure still holds for it, and that is not believed any more. 0 or -errno. */
int vcpu_flush(struct vcpu *vcpu);

/* From any thread: sets request bits and gets the vCPU out of the guest. */
void vcpu_request(struct vcpu *vcpu, uint32_t bits);

/* On the attached thread: takes the pending requests; those for the overlay stay for the loop. */
uint32_t vcpu_take_requests(struct vcpu *vcpu);

/* A bus_handler for addresses where the guest has memory that is a file: where the host cannot give
 * it, a KVM that emulates the instruction takes it for a device's. Ends the run as KVM_RUN does
 * with EFAULT. */
int vcpu_memory_gone(void *opaque, struct bus_access *access);

/* Installs the handler of the kick signal for the process: 0 or -errno. Once is enough. */
int vcpu_setup_kick(void);
/* cffi: end */

/* For what stands on the loop, on the vCPU's thread. */

/* Lets KVM finish what the last exit left open, without running guest code: -EINTR when nothing is
 * left, 0 when that brought a further exit, or -errno. */
int vcpu_settle_step(struct vcpu *vcpu);

/* Ends the run, because the vCPU holds the half of an instruction: VCPU_UNFINISHED. */
int vcpu_give_up(struct vcpu *vcpu, int error);

/* KVM_RUN failed with that errno: VCPU_IOCTL_FAILED. */
int vcpu_fail(struct vcpu *vcpu, int error);

/* For handlers of an access that wait for somebody, on the vCPU's thread: whether the machine
 * stops, or what the overlay has the guest do is late, and nobody needs the answer. */
bool vcpu_must_leave(const struct vcpu *vcpu);

/* Serves the exit at hand; goes on with one whose hook has answered. 0 or an event. */
int vcpu_serve(struct vcpu *vcpu);
int vcpu_resume(struct vcpu *vcpu);

#endif
