/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may look at the exits of a vCPU and act on them, beside whoever serves them. Symcalls are
 * the first user (symbiotic/overlay.h); a tracer or a debugger would be others. The vCPU loop knows
 * no more of them than this.
 *
 * A vCPU has one overlay or none (NULL), which then costs a look at the pointer. The user sets
 * vcpu->overlay while the vCPU stands. All functions are called on the vCPU's thread, and all are
 * required. Symcalls are set up with the vCPU, and so come first. A second user
 * - has a pointer to its record beside vcpu->symcall, and a bit below;
 * - keeps in that record the overlay that it found, and puts that back when it goes;
 * - passes on to it the exits that it does not serve, every answer, every event but 0 that it comes
 *   back with, and every request, as a request does not say whose it is.
 */
#ifndef PYVMM_MACHINE_OVERLAY_H
#define PYVMM_MACHINE_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;

struct vcpu_overlay {
	/* An exit, before somebody serves it; only while vcpu->watched. True: it is served. */
	bool (*exit)(struct vcpu *vcpu);

	/* An element of the input at hand (vcpu_exit_is_input()) got its answer; exit.next is
	 * behind it. */
	void (*answered)(struct vcpu *vcpu);

	/* vcpu_run() is about to come back with that event: what it is to come back with instead,
	 * or 0, and the guest goes on. */
	int (*event)(struct vcpu *vcpu, int event);

	/* Somebody made that request, VCPU_REQUEST_OVERLAY or VCPU_REQUEST_LATE: 0 or an event. It
	 * may be an old one, or another's. */
	int (*request)(struct vcpu *vcpu, uint32_t request);
};

enum {
	/* Bits of vcpu->watched, one a user, which sets and clears it. */
	OVERLAY_SYMCALL = 1,

	/* Events from here on are those of an overlay's own handlers. They end at its event(). */
	OVERLAY_EVENT = 1000,
};

#endif
