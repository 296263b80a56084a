/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/end.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void end_active(struct symcall *symcall, enum symcall_status status)
{
	uint8_t *page = symspy_vcpu_page(symcall->symspy, symcall->vcpu->index);

	symcall->active->message.status = status;
	symcall->active = NULL;
	symcall->vcpu->heeds = VCPU_HEED_ALL;
	symcall_watch_count(&symcall->watched);
	if (page)
		__atomic_fetch_and(symspy_flags(page), ~(uint32_t)SYMBIOTIC_VCPU_ACTIVE,
		                   __ATOMIC_RELEASE);
}

static int finish(struct symcall *symcall, enum symcall_status status)
{
	struct symcall_call *call = symcall->active;
	struct vcpu *vcpu = symcall->vcpu;
	int error, event;

	end_active(symcall, status);
	error = context_restore(vcpu, &symcall->context);
	hold_interrupts(&symcall->hold, vcpu, symcall->replay.state == REPLAY_READY);
	vcpu->settled = 1;
	event = call->done(vcpu, call, &vcpu->run->s.regs.regs);
	if (!error)
		return event;
	vcpu->error = -error;
	return VCPU_IOCTL_FAILED;
}

void symcall_outcome(struct vcpu *vcpu, bool failed)
{
	struct symcall *symcall = vcpu->symcall;
	struct symcall_message *message = &symcall->active->message;
	const struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	uint8_t *page = symspy_vcpu_page(symcall->symspy, vcpu->index);
	uint32_t wanted = message->wanted;

	message->status = failed ? SYMCALL_ERROR : SYMCALL_OK;
	message->error = failed ? regs->rbx : 0;
	message->regs[0] = regs->rbx;
	message->regs[1] = regs->rcx;
	message->regs[2] = regs->rdx;
	message->regs[3] = regs->rsi;
	message->regs[4] = regs->rdi;
	if (wanted > SYMBIOTIC_DATA_SIZE)
		wanted = SYMBIOTIC_DATA_SIZE;
	if (wanted && page)
		memcpy(message->data, page + SYMBIOTIC_DATA_OFFSET, wanted);
	else
		memset(message->data, 0, wanted);
	if (failed)
		symcall->counters.errors++;
	else
		symcall->counters.returned++;
}

int symcall_returned(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;

	return finish(symcall, symcall->active->message.status);
}

int symcall_late(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;
	int event;

	if (!symcall->active || !symcall_watch_is_late(&symcall->watched))
		return 0;
	symcall->disabled = true;
	symcall->counters.deadlines++;
	vcpu->hook_pending = 0;
	event = replay_abandon(vcpu);
	if (event)
		return event;
	return finish(symcall, SYMCALL_DEADLINE);
}

/*
 * Where a triple fault resets the vCPU (SVM: APM volume 2, 15.14.3), nothing is left to go on with.
 * It is in real mode then; the call interrupted long mode.
 */
static bool was_reset(const struct kvm_sregs *now)
{
	return !(now->cr0 & CR0_PE);
}

static const char *collapse_text(int event)
{
	switch (event) {
	case VCPU_TRIPLE_FAULT:
		return "a triple fault";
	case VCPU_HALTED:
		return "a halt that nothing ends";
	case VCPU_INTERNAL_ERROR:
		return "KVM could not emulate an instruction";
	default:
		return "the CPU refused the entry";
	}
}

int symcall_collapsed(struct vcpu *vcpu, int event)
{
	struct symcall *symcall = vcpu->symcall;
	struct symcall_message *message = &symcall->active->message;

	if (event == VCPU_IOCTL_FAILED && vcpu->error != EINVAL)
		return event;
	symcall->counters.faults++;
	message->status = SYMCALL_FAULT;
	snprintf(message->text, sizeof(message->text), "%s", collapse_text(event));
	if (event == VCPU_TRIPLE_FAULT && was_reset(&vcpu->run->s.regs.sregs))
		return event;
	symcall->disabled = true;
	return finish(symcall, SYMCALL_FAULT);
}

void symcall_cut_short(struct vcpu *vcpu, enum symcall_status status)
{
	vcpu->hook_pending = 0;
	/* If that fails the vCPU runs no more, and what it gets back does not matter. */
	replay_abandon(vcpu);
	finish(vcpu->symcall, status);
}
