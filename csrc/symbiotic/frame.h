/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work that a hook has under way, kept while the place of its exit in struct kvm_run serves the
 * exits of a symcall that it makes.
 */
#ifndef PYVMM_SYMBIOTIC_FRAME_H
#define PYVMM_SYMBIOTIC_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/bus.h"
#include "machine/vcpu.h"

struct frame {
	bool kept;
	struct vcpu_exit exit;
	struct bus_access access;
	uint32_t hook;
	uint32_t hook_pending;
	uint32_t exit_reason;
	uint32_t data_size;
	uint8_t data[VCPU_EXIT_DATA];
};

/* Nothing is pending afterwards. A frame that is kept already stays as it is. */
void frame_keep(struct vcpu *vcpu, struct frame *frame);

/* The hook's exit is the one at hand again. */
void frame_put_back(struct vcpu *vcpu, struct frame *frame);

/*
 * The call is given up before it began: the exit at hand, if the frame is kept, is a later one of
 * the hook's instruction, and stays it. If somebody was about to serve it, nobody did. 0, or
 * VCPU_UNFINISHED if the hook's exit had more elements, for which there is no place now.
 */
int frame_drop(struct vcpu *vcpu, struct frame *frame);

#endif
