/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <string.h>

#include "vcpu.h"

void frame_keep(struct vcpu *vcpu, struct frame *frame)
{
	struct kvm_run *run = vcpu->run;

	if (frame->kept)
		return;
	frame->kept = true;
	frame->access = vcpu->access;
	frame->hook = vcpu->hook;
	frame->hook_pending = vcpu->hook_pending;
	frame->exit_reason = vcpu->exit_reason;
	frame->run_reason = run->exit_reason;
	frame->io_next = vcpu->io_next;
	frame->error = vcpu->error;
	frame->data_size = 0;
	memcpy(frame->exit, replay_exit_of(run), REPLAY_EXIT);
	if (vcpu->hook_pending)
		frame->data_size = replay_data_size(run, vcpu->exit_reason);
	if (frame->data_size)
		memcpy(frame->data, replay_data_of(run), frame->data_size);
	vcpu->hook_pending = 0;
}

void frame_put_back(struct vcpu *vcpu, struct frame *frame)
{
	struct kvm_run *run = vcpu->run;

	if (!frame->kept)
		return;
	frame->kept = false;
	vcpu->access = frame->access;
	vcpu->hook = frame->hook;
	vcpu->hook_pending = frame->hook_pending;
	vcpu->exit_reason = frame->exit_reason;
	run->exit_reason = frame->run_reason;
	vcpu->io_next = frame->io_next;
	vcpu->error = frame->error;
	memcpy(replay_exit_of(run), frame->exit, REPLAY_EXIT);
	if (frame->data_size)
		memcpy(replay_data_of(run), frame->data, frame->data_size);
}
