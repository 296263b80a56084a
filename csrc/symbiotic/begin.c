/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/begin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "machine/overlay.h"

enum {
	/* Exits after a call for which KVM goes on to share the registers: the next call is likely
	 * to be near, and a guest that nobody calls any more pays nothing. */
	LINGER = 64,
	NESTED_STATE_SIZE = 16384,
};

static int refuse_host(struct symcall_call *call, int error)
{
	call->message.error = (uint64_t)-error;
	return symcall_refuse(call, SYMCALL_HOST, "KVM refused");
}

int symcall_check(struct symcall *symcall, struct symcall_call *call)
{
	uint8_t *page = symspy_vcpu_page(symcall->symspy, symcall->vcpu->index);

	call->message.status = SYMCALL_OK;
	call->message.error = 0;
	if (symcall->active) {
		symcall->counters.refused_active++;
		return symcall_refuse(call, SYMCALL_ACTIVE, "");
	}
	if (!symcall->entry.rip) {
		symcall->counters.refused_absent++;
		return symcall_refuse(call, SYMCALL_ABSENT, "");
	}
	if (symcall->disabled || !page ||
	    !(__atomic_load_n(symspy_flags(page), __ATOMIC_ACQUIRE) & SYMBIOTIC_VCPU_ENABLED)) {
		symcall->counters.refused_disabled++;
		return symcall_refuse(call, SYMCALL_DISABLED,
		                      symcall->disabled
		                              ? "it missed a deadline and did not register anew"
				      : page ? "it does not take calls now"
					     : "it has no SymSpy page");
	}
	return 0;
}

static bool in_nested_guest(struct vcpu *vcpu)
{
	struct kvm_nested_state *state = calloc(1, NESTED_STATE_SIZE);
	bool result;

	if (!state)
		return true;
	state->size = NESTED_STATE_SIZE;
	result = ioctl(vcpu->fd, KVM_GET_NESTED_STATE, state) ||
	         state->flags & KVM_STATE_NESTED_GUEST_MODE;
	free(state);
	return result;
}

/* The same with the registers at hand. */
static int check_context(struct symcall *symcall, struct symcall_call *call)
{
	const char *why = context_refuse(&symcall->entry, &symcall->context.sregs);

	if (symcall->nested && in_nested_guest(symcall->vcpu))
		return symcall_refuse(call, SYMCALL_NESTED, "");
	if (!why && symcall->context.events.smi.smm)
		why = "the vCPU is in system management mode";
	if (!why)
		return 0;
	symcall->counters.refused_invalid++;
	return symcall_refuse(call, SYMCALL_INVALID, why);
}

/* True if the shared registers are the vCPU's, and those after the instruction. */
static bool is_fresh(const struct vcpu *vcpu)
{
	return vcpu->settled && vcpu->run->kvm_valid_regs == CONTEXT_SYNC && !vcpu->touched;
}

/* For the next KVM_RUN, and some after it. */
static void share_registers(struct vcpu *vcpu)
{
	vcpu->run->kvm_valid_regs = CONTEXT_SYNC;
	vcpu->symcall->linger = LINGER;
	vcpu->watched |= OVERLAY_SYMCALL;
}

int symcall_freshen(struct vcpu *vcpu)
{
	int error;

	if (is_fresh(vcpu))
		return 0;
	share_registers(vcpu);
	error = vcpu_settle_step(vcpu);
	return error == -EINTR ? 0 : error ? error : -EBUSY;
}

static void take_context(struct symcall *symcall)
{
	struct kvm_sync_regs *shared = &symcall->vcpu->run->s.regs;

	context_forget_bitmap(&shared->sregs);
	symcall->context.regs = shared->regs;
	symcall->context.sregs = shared->sregs;
	symcall->context.events = shared->events;
}

/* The calls come in through the vCPU's page, whatever the guest has in that memory now. */
static void give_data(struct symcall *symcall, struct symcall_call *call)
{
	uint8_t *page = symspy_vcpu_page(symcall->symspy, symcall->vcpu->index);
	uint32_t size = call->message.given;

	if (size > SYMBIOTIC_DATA_SIZE)
		size = SYMBIOTIC_DATA_SIZE;
	if (size)
		memcpy(page + SYMBIOTIC_DATA_OFFSET, call->message.data, size);
	__atomic_fetch_or(symspy_flags(page), SYMBIOTIC_VCPU_ACTIVE, __ATOMIC_RELEASE);
}

/* Saves the state that the guest does not promise to keep: 0 or VCPU_SYMCALL. Nothing is changed by
 * then. */
static int save_extras(struct symcall *symcall, struct symcall_call *call)
{
	int error = 0;

	symcall->context.has_extras = false;
	if (!(symcall->entry.promises & SYMBIOTIC_PROMISE_NO_FPU))
		error = context_save_extras(symcall->vcpu, &symcall->context);
	return error ? refuse_host(call, error) : 0;
}

/* With the context in symcall->context, and its extras: puts the vCPU at the guest's entry. */
static int enter(struct symcall *symcall, struct symcall_call *call, symcall_done *done)
{
	struct vcpu *vcpu = symcall->vcpu;
	const uint64_t *given = call->message.regs;
	struct kvm_regs regs = {
	        .rax = call->message.number,
	        .rbx = given[0],
	        .rcx = given[1],
	        .rdx = given[2],
	        .rsi = given[3],
	        .rdi = given[4],
	};

	call->done = done;
	hold_interrupts(&symcall->hold, vcpu, symcall->context.events.nmi.masked);
	give_data(symcall, call);
	context_enter(vcpu, &symcall->context, &symcall->entry, &regs);
	share_registers(vcpu);
	symcall->active = call;
	symcall->number = call->message.number;
	vcpu->heeds = VCPU_HEED_URGENT;
	symcall->counters.calls++;
	symcall_watch_count(&symcall->watched);
	symcall_watch_begin(symcall->watch);
	return 0;
}

static int start(struct symcall *symcall, struct symcall_call *call, symcall_done *done)
{
	int event = save_extras(symcall, call);

	return event ? event : enter(symcall, call, done);
}

int symcall_begin(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done)
{
	struct symcall *symcall = vcpu->symcall;
	int event = symcall_check(symcall, call);

	if (event)
		return event;
	take_context(symcall);
	symcall->context.slept = false;
	event = check_context(symcall, call);
	return event ? event : start(symcall, call, done);
}

/* Its context is the one before the instruction. */
int symcall_begin_in_input(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done)
{
	struct symcall *symcall = vcpu->symcall;
	struct context *context = &symcall->context;
	int error = context_fetch(vcpu, &context->regs, &context->sregs, &context->events);
	int event;

	if (error)
		return refuse_host(call, error);
	context->slept = false;
	event = check_context(symcall, call);
	if (!event)
		event = save_extras(symcall, call);
	/* From here on there is no way back but through the call. */
	if (!event)
		event = replay_put_aside(&symcall->replay, vcpu, &context->regs);
	return event ? event : enter(symcall, call, done);
}

/* The entry is looked at once more, because serving the exit takes its time. */
int symcall_begin_settled(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done)
{
	int error, event;

	while (!is_fresh(vcpu)) {
		if (vcpu_must_leave(vcpu)) {
			vcpu_give_up(vcpu, ECANCELED);
			return symcall_refuse(call, SYMCALL_STOPPED, "");
		}
		share_registers(vcpu);
		error = vcpu_settle_step(vcpu);
		event = error ? 0 : vcpu_serve(vcpu);
		if (event)
			return event;
		if (error && error != -EINTR)
			return vcpu_fail(vcpu, -error);
	}
	return symcall_begin(vcpu, call, done);
}

int symcall_begin_posted(struct vcpu *vcpu, struct symcall_call *call, symcall_done *done)
{
	struct symcall *symcall = vcpu->symcall;
	int error = 0, event = symcall_check(symcall, call);

	if (event)
		return event;
	symcall->context.slept = false;
	error = symcall_freshen(vcpu);
	if (error)
		return refuse_host(call, error);
	take_context(symcall);
	event = check_context(symcall, call);
	if (!event)
		event = save_extras(symcall, call);
	if (event)
		return event;
	/* The last that may fail: a vCPU that was woken for nothing would go on behind its HLT. */
	if (vcpu->may_sleep)
		error = context_wake(vcpu, &symcall->context);
	if (error == -EAGAIN)
		return symcall_refuse(call, SYMCALL_STOPPED, "");
	return error ? refuse_host(call, error) : enter(symcall, call, done);
}
