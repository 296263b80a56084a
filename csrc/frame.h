/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hook has under way, kept while the place of its exit in struct kvm_run serves the exits of
 * a symcall that it makes.
 */
#ifndef PYVMM_FRAME_H
#define PYVMM_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "replay.h"

struct vcpu;

struct frame {
	bool kept;
	struct bus_access access;
	uint32_t hook;
	uint32_t hook_pending;
	uint32_t exit_reason;
	uint32_t run_reason;
	uint32_t io_next;
	int error;
	uint32_t data_size;
	uint8_t exit[REPLAY_EXIT];
	uint8_t data[REPLAY_DATA];
};

/* Nothing is pending afterwards. A frame that is kept already stays as it is. */
void frame_keep(struct vcpu *vcpu, struct frame *frame);

/* The hook's exit is the one at hand again. */
void frame_put_back(struct vcpu *vcpu, struct frame *frame);

#endif
