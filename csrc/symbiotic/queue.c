/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/queue.h"

#include <errno.h>

#include "host/thread.h"
#include "symbiotic/begin.h"
#include "symbiotic/end.h"

static void request_more(struct symcall *symcall)
{
	if (symcall->first)
		__atomic_fetch_or(&symcall->vcpu->requests, VCPU_REQUEST_OVERLAY, __ATOMIC_SEQ_CST);
}

/*
 * The thread that posted the call may free it from the moment the lock is given up, so this is the
 * last that is done with it.
 */
static void give_back(struct symcall *symcall, struct symcall_call *call)
{
	bool disowned;

	pthread_mutex_lock(&symcall->lock);
	disowned = call->disowned;
	call->posted = false;
	pthread_cond_broadcast(&symcall->over);
	request_more(symcall);
	pthread_mutex_unlock(&symcall->lock);
	if (disowned)
		symcall_call_destroy(call);
}

static int over(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs)
{
	(void)regs;
	give_back(vcpu->symcall, call);
	return 0;
}

static void enqueue(struct symcall *symcall, struct symcall_call *call)
{
	call->posted = true;
	if (symcall->last)
		symcall->last->next = call;
	else
		symcall->first = call;
	symcall->last = call;
}

void symcall_post(struct vcpu *vcpu, struct symcall_call *call)
{
	struct symcall *symcall = vcpu->symcall;
	bool closed;

	call->next = NULL;
	if (!symcall) {
		symcall_refuse(call, SYMCALL_ABSENT, "");
		return;
	}
	pthread_mutex_lock(&symcall->lock);
	closed = symcall->closed;
	if (!closed)
		enqueue(symcall, call);
	pthread_mutex_unlock(&symcall->lock);
	if (closed)
		symcall_refuse(call, SYMCALL_STOPPED, "");
	else
		vcpu_request(vcpu, VCPU_REQUEST_OVERLAY);
}

int symcall_wait(struct vcpu *vcpu, struct symcall_call *call, uint32_t milliseconds)
{
	struct symcall *symcall = vcpu->symcall;
	struct timespec until = thread_deadline(milliseconds);
	int over;

	if (!symcall)
		return 1;
	pthread_mutex_lock(&symcall->lock);
	while (call->posted &&
	       pthread_cond_timedwait(&symcall->over, &symcall->lock, &until) != ETIMEDOUT)
		;
	over = !call->posted;
	pthread_mutex_unlock(&symcall->lock);
	return over;
}

/* With the lock held: takes the call out of the queue, if it is there. */
static int unqueue(struct symcall *symcall, struct symcall_call *call)
{
	struct symcall_call **link = &symcall->first;
	struct symcall_call *before = NULL;

	while (*link && *link != call) {
		before = *link;
		link = &before->next;
	}
	if (!*link)
		return 0;
	*link = call->next;
	if (symcall->last == call)
		symcall->last = before;
	return 1;
}

int symcall_withdraw(struct vcpu *vcpu, struct symcall_call *call)
{
	struct symcall *symcall = vcpu->symcall;
	int found;

	if (!symcall)
		return 1;
	pthread_mutex_lock(&symcall->lock);
	found = unqueue(symcall, call);
	if (found)
		call->posted = false;
	pthread_mutex_unlock(&symcall->lock);
	return found;
}

void symcall_disown(struct vcpu *vcpu, struct symcall_call *call)
{
	struct symcall *symcall = vcpu->symcall;
	bool under_way = false;

	if (symcall) {
		pthread_mutex_lock(&symcall->lock);
		under_way = call->posted && !unqueue(symcall, call);
		call->disowned = under_way;
		pthread_mutex_unlock(&symcall->lock);
	}
	if (!under_way)
		symcall_call_destroy(call);
}

int symcall_pending(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;
	int pending;

	if (!symcall)
		return 0;
	pthread_mutex_lock(&symcall->lock);
	pending = symcall->first != NULL;
	pthread_mutex_unlock(&symcall->lock);
	return pending;
}

static struct symcall_call *take_first(struct symcall *symcall)
{
	struct symcall_call *call;

	pthread_mutex_lock(&symcall->lock);
	call = symcall->first;
	if (call)
		unqueue(symcall, call);
	pthread_mutex_unlock(&symcall->lock);
	return call;
}

int symcall_next(struct vcpu *vcpu)
{
	struct symcall_call *call = take_first(vcpu->symcall);

	if (call && symcall_begin_posted(vcpu, call, over))
		give_back(vcpu->symcall, call);
	return 0;
}

void symcall_close(struct vcpu *vcpu)
{
	struct symcall *symcall = vcpu->symcall;

	if (!symcall)
		return;
	pthread_mutex_lock(&symcall->lock);
	symcall->closed = true;
	pthread_mutex_unlock(&symcall->lock);
	if (symcall->active) {
		enum symcall_status status = symcall->active->message.status;

		symcall_cut_short(vcpu, status == SYMCALL_FAULT ? SYMCALL_FAULT : SYMCALL_STOPPED);
	}
	for (struct symcall_call *call = take_first(symcall); call; call = take_first(symcall)) {
		symcall_refuse(call, SYMCALL_STOPPED, "");
		give_back(symcall, call);
	}
}
