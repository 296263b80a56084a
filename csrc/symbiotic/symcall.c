/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/symcall.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/vcpu.h"
#include "symbiotic/watch.h"

/* Timed waits on it are not to notice that somebody sets the clock. */
static void init_condition(pthread_cond_t *condition)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(condition, &attributes);
	pthread_condattr_destroy(&attributes);
}

struct symcall *symcall_create(struct vcpu *vcpu, struct symspy *symspy,
                               struct symcall_watch *watch, const struct symcall_setup *setup)
{
	struct symcall *symcall = calloc(1, sizeof(*symcall));
	int error;

	if (!symcall)
		return NULL;
	symcall->echo = symcall_call_create();
	if (!symcall->echo || context_init(&symcall->context, setup->xsave_size)) {
		symcall_call_destroy(symcall->echo);
		free(symcall);
		errno = ENOMEM;
		return NULL;
	}
	symcall->vcpu = vcpu;
	vcpu->symcall = symcall;
	symcall->symspy = symspy;
	symcall->watch = watch;
	symcall->nested = setup->nested;
	symcall->context.tr_not_busy = setup->svm;
	symcall->hold.possible = setup->can_block_interrupts;
	pthread_mutex_init(&symcall->lock, NULL);
	init_condition(&symcall->over);
	error = symcall_watch_add(watch, symcall);
	if (error) {
		symcall_destroy(symcall);
		errno = -error;
		return NULL;
	}
	return symcall;
}

void symcall_destroy(struct symcall *symcall)
{
	if (!symcall)
		return;
	symcall->vcpu->symcall = NULL;
	context_free(&symcall->context);
	symcall_call_destroy(symcall->echo);
	pthread_cond_destroy(&symcall->over);
	pthread_mutex_destroy(&symcall->lock);
	free(symcall);
}

struct symcall_counters *symcall_counters(struct symcall *symcall)
{
	return &symcall->counters;
}

struct symcall_call *symcall_call_create(void)
{
	return calloc(1, sizeof(struct symcall_call));
}

void symcall_call_destroy(struct symcall_call *call)
{
	free(call);
}

struct symcall_message *symcall_message(struct symcall_call *call)
{
	return &call->message;
}

static int hand_over_local(struct vcpu *vcpu, struct symcall_call *call)
{
	frame_put_back(vcpu, &call->frame);
	return VCPU_SYMCALL;
}

static int hand_over(struct symcall *symcall, struct symcall_call *call)
{
	struct vcpu *vcpu = symcall->vcpu;

	if (call->done)
		return call->done(vcpu, call, &vcpu->run->s.regs.regs);
	if (call->local)
		return hand_over_local(vcpu, call);
	symcall_give_back(symcall, call);
	return 0;
}

static void end_active(struct symcall *symcall, enum symcall_status status)
{
	uint8_t *page = symspy_vcpu_page(symcall->symspy, symcall->vcpu->index);

	symcall->active->message.status = status;
	symcall->active = NULL;
	symcall->vcpu->in_symcall = 0;
	symcall_count(symcall);
	if (page)
		__atomic_fetch_and(symcall_flags(page), ~(uint32_t)SYMSPY_VCPU_ACTIVE,
		                   __ATOMIC_RELEASE);
}

static int finish(struct symcall *symcall, enum symcall_status status)
{
	struct symcall_call *call = symcall->active;
	struct vcpu *vcpu = symcall->vcpu;
	int error, event;

	end_active(symcall, status);
	error = context_restore(vcpu, &symcall->context);
	hold_interrupts(vcpu, symcall->replay.state == REPLAY_READY);
	vcpu->settled = 1;
	event = hand_over(symcall, call);
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
	if (wanted > SYMSPY_DATA_SIZE)
		wanted = SYMSPY_DATA_SIZE;
	if (wanted && page)
		memcpy(message->data, page + SYMSPY_DATA, wanted);
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
	uint64_t late = __atomic_load_n(&symcall->late, __ATOMIC_ACQUIRE);
	int event;

	if (!symcall->active || late != symcall->sequence)
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

bool symcall_lingered(struct vcpu *vcpu)
{
	enum replay_state state = vcpu->symcall->replay.state;

	if (vcpu->in_symcall)
		return false;
	if (state == REPLAY_READY)
		return replay_serve(vcpu);
	if (state == REPLAY_NONE && !--vcpu->lingering)
		vcpu->run->kvm_valid_regs = 0;
	return false;
}

void symcall_abandon(struct vcpu *vcpu, struct symcall_call *call, uint32_t status)
{
	struct symcall *symcall = vcpu->symcall;

	if (!symcall)
		return;
	if (symcall->active != call) {
		frame_drop(vcpu, &call->frame);
		return;
	}
	vcpu->hook_pending = 0;
	/* If that fails the vCPU runs no more, and what it gets back does not matter. */
	replay_abandon(vcpu);
	finish(symcall, status);
}
