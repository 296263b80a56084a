/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/doorbell.h"

#include <errno.h>
#include <stdbool.h>

#include "symbiotic/begin.h"
#include "symbiotic/end.h"

static struct kvm_regs *regs_of(struct vcpu *vcpu)
{
	return &vcpu->run->s.regs.regs;
}

static void set_results(struct kvm_regs *regs, uint64_t rax, const uint64_t *results,
                        uint32_t count)
{
	__u64 *registers[] = {&regs->rbx, &regs->rcx, &regs->rdx, &regs->rsi, &regs->rdi};

	regs->rax = rax;
	for (uint32_t i = 0; i < count && i < SYMCALL_REGISTERS; i++)
		*registers[i] = results[i];
}

void doorbell_reply(struct vcpu *vcpu, uint64_t rax, const uint64_t *results, uint32_t count)
{
	set_results(regs_of(vcpu), rax, results, count);
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

static void answer(struct vcpu *vcpu, uint64_t rax)
{
	doorbell_reply(vcpu, rax, NULL, 0);
}

int doorbell_answer(struct vcpu *vcpu, uint64_t rax, const uint64_t *results, uint32_t count)
{
	int error = symcall_freshen(vcpu);

	if (error)
		return error;
	doorbell_reply(vcpu, rax, results, count);
	return 0;
}

static uint64_t rax_of(const struct symcall_message *message)
{
	return message->status == SYMCALL_OK ? SYMBIOTIC_HYPERCALL_DONE
	                                     : SYMBIOTIC_HYPERCALL_REFUSED;
}

static int echo_done(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs)
{
	const struct symcall_message *message = symcall_message(call);

	(void)vcpu;
	set_results(regs, rax_of(message), message->regs, SYMCALL_REGISTERS);
	return 0;
}

static int on_echo(void *opaque, struct bus_access *access)
{
	struct vcpu *vcpu = access->vcpu;
	struct symcall_call *call = vcpu->symcall->echo;
	struct symcall_message *message = symcall_message(call);

	(void)opaque;
	/* In a call it may be our own that is under way. */
	if (vcpu->symcall->active) {
		vcpu->symcall->counters.refused_active++;
		answer(vcpu, SYMBIOTIC_HYPERCALL_REFUSED);
		return BUS_DONE;
	}
	message->number = SYMCALL_TEST;
	for (int i = 0; i < SYMCALL_REGISTERS; i++)
		message->regs[i] = vcpu->hypercall[i + 1];
	if (symcall_begin(vcpu, call, echo_done))
		answer(vcpu, SYMBIOTIC_HYPERCALL_REFUSED);
	return BUS_DONE;
}

static int hypercall(struct vcpu *vcpu, struct bus *hypercalls, uint32_t number)
{
	const struct kvm_regs *regs = regs_of(vcpu);
	const struct bus_range *range = bus_find(hypercalls, number);
	struct bus_access access = {.address = number, .is_write = 1, .vcpu = vcpu};

	vcpu->hypercall[0] = number;
	vcpu->hypercall[1] = regs->rbx;
	vcpu->hypercall[2] = regs->rcx;
	vcpu->hypercall[3] = regs->rdx;
	vcpu->hypercall[4] = regs->rsi;
	vcpu->hypercall[5] = regs->rdi;
	if (!range) {
		answer(vcpu, SYMBIOTIC_HYPERCALL_UNKNOWN);
		return BUS_DONE;
	}
	if (range->handler)
		return range->handler(range->opaque, &access);
	vcpu->hook = range->hook;
	/* Which a hook without results need not say. */
	answer(vcpu, SYMBIOTIC_HYPERCALL_DONE);
	return VCPU_HYPERCALL;
}

static int end_of_call(struct vcpu *vcpu, bool failed)
{
	if (!vcpu->symcall->active) {
		vcpu->symcall->counters.stray_returns++;
		answer(vcpu, SYMBIOTIC_HYPERCALL_REFUSED);
		return BUS_DONE;
	}
	symcall_outcome(vcpu, failed);
	return SYMCALL_RETURNED;
}

static int ring(void *opaque, struct bus_access *access)
{
	struct vcpu *vcpu = access->vcpu;
	struct symcall *symcall = vcpu->symcall;
	int error;

	if (!symcall)
		return BUS_FAULT;
	if (!access->is_write || access->length != sizeof(uint32_t)) {
		symcall->counters.doorbells_refused++;
		return BUS_FAULT;
	}
	vcpu->settled = 1;
	error = symcall_freshen(vcpu);
	if (error) {
		vcpu->error = -error;
		return VCPU_IOCTL_FAILED;
	}
	if (!context_is_kernel(&vcpu->run->s.regs.sregs)) {
		symcall->counters.doorbells_refused++;
		return BUS_DONE;
	}
	symcall->counters.doorbells++;
	switch ((uint32_t)access->value) {
	case SYMBIOTIC_RETURN:
		return end_of_call(vcpu, false);
	case SYMBIOTIC_ERROR:
		return end_of_call(vcpu, true);
	default:
		return hypercall(vcpu, opaque, (uint32_t)access->value);
	}
}

int doorbell_attach(struct bus *pio, struct bus *hypercalls)
{
	int error = bus_add(pio, SYMBIOTIC_PORT, 1, ring, hypercalls);

	return error ? error : bus_add(hypercalls, SYMBIOTIC_ECHO, 1, on_echo, NULL);
}
