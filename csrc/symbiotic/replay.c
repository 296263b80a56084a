/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/replay.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "symbiotic/context.h"

/* More exits than KVM makes of 1024 elements, each of which is read and written in four parts. */
enum { EXITS_OF_ONE_INSTRUCTION = 8192 };

bool replay_needed(const struct vcpu *vcpu)
{
	return !vcpu->settled && vcpu_exit_is_input(&vcpu->exit);
}

static void answer_zero(struct vcpu *vcpu)
{
	const struct vcpu_exit *exit = &vcpu->exit;

	if (exit->access && !exit->is_write)
		memset(exit->data, 0, vcpu_exit_size(exit));
	if (exit->access == VCPU_MSR)
		vcpu->run->msr.error = 0;
}

/* With these registers, but for RCX. */
static int finish_with_zeros(struct vcpu *vcpu, const struct kvm_regs *regs)
{
	if (vcpu->exit.access == VCPU_MMIO) {
		vcpu->run->s.regs.regs = *regs;
		vcpu->run->s.regs.regs.rcx = 1;
		vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	}
	/* Somebody will look at what KVM has to deliver then. */
	vcpu->run->kvm_valid_regs = CONTEXT_SYNC;
	for (int i = 0; i < EXITS_OF_ONE_INSTRUCTION; i++) {
		int error;

		answer_zero(vcpu);
		error = vcpu_settle_step(vcpu);
		if (error == -EINTR)
			return 0;
		if (error)
			return vcpu_give_up(vcpu, -error);
		vcpu_exit_take(&vcpu->exit, vcpu->run, vcpu->run_size, vcpu->run->exit_reason);
	}
	return vcpu_give_up(vcpu, ELOOP);
}

int replay_put_aside(struct replay *replay, struct vcpu *vcpu, const struct kvm_regs *regs)
{
	int event = finish_with_zeros(vcpu, regs);

	if (event)
		return event;
	replay->state = REPLAY_WANTED;
	replay->rip = regs->rip;
	replay->rsp = regs->rsp;
	return 0;
}

int replay_abandon(struct vcpu *vcpu)
{
	struct kvm_regs regs;

	if (vcpu->settled)
		return 0;
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs))
		return vcpu_give_up(vcpu, errno);
	return finish_with_zeros(vcpu, &regs);
}

void replay_take_answer(struct replay *replay, struct vcpu *vcpu)
{
	if (replay->state != REPLAY_WANTED)
		return;
	replay->exit = vcpu->exit;
	replay->refused = vcpu->exit.access == VCPU_MSR && vcpu->run->msr.error;
	replay->data_size = vcpu_exit_size(&vcpu->exit);
	if (replay->data_size)
		memcpy(replay->data, vcpu->exit.data, replay->data_size);
	replay->state = REPLAY_READY;
	/* Where that cannot be, the guest may take an interrupt first: the answer then waits for
	 * its return. */
	hold_interrupts(replay->hold, vcpu, true);
}

static bool same_access(const struct vcpu_exit *now, const struct vcpu_exit *then)
{
	return now->access == then->access && now->address == then->address &&
	       now->length == then->length && now->count == then->count &&
	       now->is_write == then->is_write;
}

static void give_answer(struct vcpu *vcpu, const struct replay *replay)
{
	if (!vcpu->exit.is_write && replay->data_size)
		memcpy(vcpu->exit.data, replay->data, replay->data_size);
	if (vcpu->exit.access == VCPU_MSR)
		vcpu->run->msr.error = replay->refused;
}

void replay_remember(struct replay *replay, const struct vcpu_exit *exit)
{
	struct replay_part *part = &replay->parts[replay->next_part % REPLAY_PARTS];

	replay->next_part++;
	part->address = exit->address;
	part->length = exit->length;
	memcpy(part->data, exit->data, exit->length);
}

/* The exit at hand is a part before the one that was put aside: answers it as it was then. */
static bool serve_part(struct vcpu *vcpu, const struct replay *replay)
{
	const struct vcpu_exit *exit = &vcpu->exit;

	if (exit->access != VCPU_MMIO || exit->is_write)
		return false;
	for (uint32_t i = 1; i <= REPLAY_PARTS; i++) {
		const struct replay_part *part =
		        &replay->parts[(replay->next_part - i) % REPLAY_PARTS];

		if (part->address == exit->address && part->length == exit->length) {
			memcpy(exit->data, part->data, exit->length);
			return true;
		}
	}
	return false;
}

bool replay_serve(struct replay *replay, struct vcpu *vcpu)
{
	const struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	/* Another access (of an interrupt handler, say) is not meant; the stack tells the contexts
	 * apart. */
	bool same_place = regs->rip == replay->rip && regs->rsp == replay->rsp;

	bool same = same_place && same_access(&vcpu->exit, &replay->exit);

	if (same_place && !same && serve_part(vcpu, replay))
		return true;
	hold_interrupts(replay->hold, vcpu, false);
	if (!same)
		return false;
	give_answer(vcpu, replay);
	replay->state = REPLAY_NONE;
	return true;
}
