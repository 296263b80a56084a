/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "symcall.h"
#include "vcpu.h"

/* Each element of a string input that has parts beyond RAM may exit again; more than these no
 * instruction has. */
enum { EXITS_OF_ONE_INSTRUCTION = 64 };

uint8_t *replay_exit_of(struct kvm_run *run)
{
	return (uint8_t *)run + offsetof(struct kvm_run, hw);
}

uint32_t replay_data_size(const struct kvm_run *run, uint32_t reason)
{
	uint64_t size;

	if (reason != KVM_EXIT_IO)
		return 0;
	size = (uint64_t)run->io.size * run->io.count;
	return size <= REPLAY_DATA ? (uint32_t)size : REPLAY_DATA;
}

uint8_t *replay_data_of(struct kvm_run *run)
{
	return (uint8_t *)run + run->io.data_offset;
}

static bool is_input(const struct kvm_run *run, uint32_t reason)
{
	switch (reason) {
	case KVM_EXIT_IO:
		return run->io.direction == KVM_EXIT_IO_IN;
	case KVM_EXIT_MMIO:
		return !run->mmio.is_write;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR: /* may still be refused */
		return true;
	default:
		return false;
	}
}

bool replay_needed(const struct vcpu *vcpu)
{
	return !vcpu->settled && is_input(vcpu->run, vcpu->exit_reason);
}

static void answer_zero(struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.direction == KVM_EXIT_IO_IN)
			memset(replay_data_of(run), 0, replay_data_size(run, run->exit_reason));
		break;
	case KVM_EXIT_MMIO:
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = 0;
		run->msr.data = 0;
		break;
	default:
		break;
	}
}

int replay_abandon(struct vcpu *vcpu, const struct kvm_regs *regs)
{
	struct replay *replay = &vcpu->symcall->replay;

	for (int i = 0; i < EXITS_OF_ONE_INSTRUCTION; i++) {
		int error;

		answer_zero(vcpu->run);
		error = vcpu_settle_step(vcpu);
		if (error == -EINTR) {
			replay->state = REPLAY_WANTED;
			replay->rip = regs->rip;
			replay->rsp = regs->rsp;
			return 0;
		}
		if (error)
			return error;
	}
	return -ELOOP;
}

void replay_take_answer(struct vcpu *vcpu)
{
	struct replay *replay = &vcpu->symcall->replay;

	if (replay->state != REPLAY_WANTED || vcpu->in_symcall)
		return;
	replay->reason = vcpu->exit_reason;
	memcpy(replay->exit, replay_exit_of(vcpu->run), REPLAY_EXIT);
	replay->data_size = replay_data_size(vcpu->run, replay->reason);
	/* Where there is none, the offset of the data is something else. */
	if (replay->data_size)
		memcpy(replay->data, replay_data_of(vcpu->run), replay->data_size);
	replay->state = REPLAY_READY;
	/* Where that cannot be, the guest may take an interrupt first: the answer then waits for
	 * its return. */
	hold_interrupts(vcpu, true);
}

static bool same_access(const struct kvm_run *run, const struct replay *replay)
{
	struct kvm_run then;

	if (run->exit_reason != replay->reason || !is_input(run, replay->reason))
		return false;
	memcpy((uint8_t *)&then + offsetof(struct kvm_run, hw), replay->exit, REPLAY_EXIT);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return run->io.port == then.io.port && run->io.size == then.io.size &&
		       run->io.count == then.io.count;
	case KVM_EXIT_MMIO:
		return run->mmio.phys_addr == then.mmio.phys_addr && run->mmio.len == then.mmio.len;
	default:
		return run->msr.index == then.msr.index;
	}
}

static void give_answer(struct kvm_run *run, const struct replay *replay)
{
	struct kvm_run then;

	memcpy((uint8_t *)&then + offsetof(struct kvm_run, hw), replay->exit, REPLAY_EXIT);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		memcpy(replay_data_of(run), replay->data, replay->data_size);
		break;
	case KVM_EXIT_MMIO:
		memcpy(run->mmio.data, then.mmio.data, sizeof(run->mmio.data));
		break;
	default:
		run->msr.error = then.msr.error;
		run->msr.data = then.msr.data;
		break;
	}
}

void replay_remember(struct vcpu *vcpu)
{
	struct replay *replay = &vcpu->symcall->replay;
	const struct kvm_run *run = vcpu->run;
	struct replay_part *part = &replay->parts[replay->next_part % REPLAY_PARTS];

	/* A handler's reads are none of the instruction that it interrupts. */
	if (vcpu->in_symcall)
		return;
	replay->next_part++;
	part->address = run->mmio.phys_addr;
	part->length = run->mmio.len;
	memcpy(part->data, run->mmio.data, sizeof(part->data));
}

/* The exit at hand is a part before the one that was put aside: answers it as it was then. */
static bool serve_part(struct kvm_run *run, const struct replay *replay)
{
	if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.is_write)
		return false;
	for (uint32_t i = 1; i <= REPLAY_PARTS; i++) {
		const struct replay_part *part =
		        &replay->parts[(replay->next_part - i) % REPLAY_PARTS];

		if (part->address == run->mmio.phys_addr && part->length == run->mmio.len) {
			memcpy(run->mmio.data, part->data, sizeof(part->data));
			return true;
		}
	}
	return false;
}

bool replay_serve(struct vcpu *vcpu)
{
	struct replay *replay = &vcpu->symcall->replay;
	const struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	/* Another access (of an interrupt handler, say) is not meant; the stack tells the contexts
	 * apart. */
	bool same_place = regs->rip == replay->rip && regs->rsp == replay->rsp;

	if (same_place && !same_access(vcpu->run, replay) && serve_part(vcpu->run, replay))
		return true;
	hold_interrupts(vcpu, false);
	if (!same_place || !same_access(vcpu->run, replay))
		return false;
	give_answer(vcpu->run, replay);
	replay->state = REPLAY_NONE;
	return true;
}
