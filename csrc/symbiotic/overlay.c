/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "symbiotic/end.h"
#include "symbiotic/queue.h"

/* After a call KVM shares the registers for some more exits, and all of them are looked at. */
static bool on_exit_of(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;

	if (symcall->active)
		return false;
	if (symcall->replay.state == REPLAY_READY)
		return replay_serve(&symcall->replay, vcpu);
	if (symcall->replay.state == REPLAY_NONE && !--symcall->linger) {
		vcpu->run->kvm_valid_regs = 0;
		vcpu->watched &= ~(uint32_t)OVERLAY_SYMCALL;
	}
	return false;
}

static void on_answer(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;
	const struct vcpu_exit *exit = &vcpu->exit;

	/* A handler's reads are none of the instruction that it interrupts. */
	if (symcall->active)
		return;
	if (exit->access == VCPU_MMIO)
		replay_remember(&symcall->replay, exit);
	if (exit->next == exit->count)
		replay_take_answer(&symcall->replay, vcpu);
}

/* Changes of the vCPU by the guest's handler may be undone. */
static bool may_be_undone(int event)
{
	return event == VCPU_TRIPLE_FAULT || event == VCPU_INTERNAL_ERROR ||
	       event == VCPU_ENTRY_FAILURE || event == VCPU_IOCTL_FAILED || event == VCPU_HALTED;
}

static int on_event(struct vcpu *vcpu, int event)
{
	if (event == SYMCALL_RETURNED)
		return symcall_returned(vcpu);
	if (vcpu->symcall->active && may_be_undone(event))
		return symcall_collapsed(vcpu, event);
	return event;
}

static int on_request(struct vcpu *vcpu, uint32_t request)
{
	return request == VCPU_REQUEST_LATE ? symcall_late(vcpu) : symcall_next(vcpu);
}

static const struct vcpu_overlay overlay = {
        .exit = on_exit_of,
        .answered = on_answer,
        .event = on_event,
        .request = on_request,
};

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
	symcall->vcpu = symcall->watched.vcpu = vcpu;
	symcall->symspy = symspy;
	symcall->watch = watch;
	symcall->nested = setup->nested;
	symcall->context.tr_not_busy = setup->svm;
	symcall->hold.possible = setup->can_block_interrupts;
	symcall->replay.hold = &symcall->hold;
	pthread_mutex_init(&symcall->lock, NULL);
	init_condition(&symcall->over);
	error = symcall_watch_add(watch, &symcall->watched);
	if (error) {
		symcall_destroy(symcall);
		errno = -error;
		return NULL;
	}
	vcpu->symcall = symcall;
	vcpu->overlay = &overlay;
	return symcall;
}

void symcall_destroy(struct symcall *symcall)
{
	if (!symcall)
		return;
	symcall->vcpu->watched &= ~(uint32_t)OVERLAY_SYMCALL;
	symcall->vcpu->overlay = NULL;
	symcall->vcpu->symcall = NULL;
	context_free(&symcall->context);
	symcall_call_destroy(symcall->echo);
	pthread_cond_destroy(&symcall->over);
	pthread_mutex_destroy(&symcall->lock);
	free(symcall);
}
