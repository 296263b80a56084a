/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/frame.h"

#include <errno.h>
#include <string.h>

void frame_keep(struct vcpu *vcpu, struct frame *frame)
{
	if (frame->kept)
		return;
	frame->kept = true;
	frame->exit = vcpu->exit;
	frame->access = vcpu->access;
	frame->hook = vcpu->hook;
	frame->hook_pending = vcpu->hook_pending;
	frame->exit_reason = vcpu->exit_reason;
	frame->data_size = vcpu->hook_pending ? vcpu_exit_size(&vcpu->exit) : 0;
	if (frame->data_size)
		memcpy(frame->data, vcpu->exit.data, frame->data_size);
	vcpu->hook_pending = 0;
}

void frame_put_back(struct vcpu *vcpu, struct frame *frame)
{
	if (!frame->kept)
		return;
	frame->kept = false;
	vcpu->exit = frame->exit;
	vcpu->access = frame->access;
	vcpu->hook = frame->hook;
	vcpu->hook_pending = frame->hook_pending;
	vcpu->exit_reason = frame->exit_reason;
	if (frame->data_size)
		memcpy(vcpu->exit.data, frame->data, frame->data_size);
}

int frame_drop(struct vcpu *vcpu, struct frame *frame)
{
	const struct vcpu_exit *exit = &frame->exit;

	if (!frame->kept)
		return 0;
	frame->kept = false;
	/* The loop finishes it from there, when the hook that made the call is over. */
	if (vcpu->hook_pending)
		vcpu->access.refused = 1;
	return frame->hook_pending && exit->next + 1 < exit->count ? vcpu_give_up(vcpu, EIO) : 0;
}
