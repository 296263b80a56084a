/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/local.h"

#include "symbiotic/begin.h"
#include "symbiotic/end.h"

/* The hook's exit is the one at hand again. */
static int put_back(struct vcpu *vcpu, struct symcall_call *call)
{
	frame_put_back(vcpu, &call->frame);
	return VCPU_SYMCALL;
}

static int over(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs)
{
	(void)regs;
	return put_back(vcpu, call);
}

static int begin(struct vcpu *vcpu, struct symcall_call *call)
{
	bool first = !call->frame.kept, in_input;
	int event = 0;

	if (!vcpu->symcall)
		return symcall_refuse(call, SYMCALL_ABSENT, "");
	if (first)
		event = symcall_check(vcpu->symcall, call);
	else if (vcpu->hook_pending)
		event = vcpu_resume(vcpu);
	if (event)
		return event;
	/* An event that came instead of the beginning was about another exit than the hook's. */
	in_input = first && replay_needed(vcpu);
	frame_keep(vcpu, &call->frame);
	event = in_input ? symcall_begin_in_input(vcpu, call, over)
	                 : symcall_begin_settled(vcpu, call, over);
	return event == VCPU_SYMCALL ? put_back(vcpu, call) : event;
}

int symcall_continue(struct vcpu *vcpu, struct symcall_call *call)
{
	bool begun = vcpu->symcall && vcpu->symcall->active == call;
	int event = begun ? 0 : begin(vcpu, call);

	return event ? event : vcpu_run(vcpu);
}

int symcall_make(struct vcpu *vcpu, struct symcall_call *call, uint64_t number, uint64_t rbx,
                 uint64_t rcx, uint64_t rdx, uint64_t rsi, uint64_t rdi)
{
	struct symcall_message *message = &call->message;

	message->number = number;
	message->regs[0] = rbx;
	message->regs[1] = rcx;
	message->regs[2] = rdx;
	message->regs[3] = rsi;
	message->regs[4] = rdi;
	return symcall_continue(vcpu, call);
}

void symcall_abandon(struct vcpu *vcpu, struct symcall_call *call, uint32_t status)
{
	if (!vcpu->symcall)
		return;
	if (vcpu->symcall->active == call)
		symcall_cut_short(vcpu, status);
	else
		frame_drop(vcpu, &call->frame);
}
