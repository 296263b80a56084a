/* SPDX-License-Identifier: Apache-2.0 */
/* Symcalls that other threads ask for. */
#include <errno.h>
#include <time.h>

#include "symcall.h"
#include "vcpu.h"

static void request_more(struct symcall *symcall)
{
	if (symcall->first)
		__atomic_fetch_or(&symcall->vcpu->requests, VCPU_REQUEST_SYMCALL, __ATOMIC_SEQ_CST);
}

void symcall_wake_caller(struct symcall *symcall, struct symcall_call *call)
{
	pthread_mutex_lock(&symcall->lock);
	call->message.finished = 1;
	pthread_cond_broadcast(&symcall->over);
	request_more(symcall);
	pthread_mutex_unlock(&symcall->lock);
}

void symcall_post(struct vcpu *vcpu, struct symcall_call *call)
{
	struct symcall *symcall = vcpu->symcall;

	call->done = NULL;
	call->local = false;
	call->next = NULL;
	call->message.finished = 0;
	if (!symcall) {
		symcall_refuse(call, SYMCALL_ABSENT, "");
		return;
	}
	pthread_mutex_lock(&symcall->lock);
	if (symcall->closed) {
		symcall_refuse(call, SYMCALL_STOPPED, "");
	} else {
		if (symcall->last)
			symcall->last->next = call;
		else
			symcall->first = call;
		symcall->last = call;
	}
	pthread_mutex_unlock(&symcall->lock);
	vcpu_request(vcpu, VCPU_REQUEST_SYMCALL);
}

static struct timespec later(uint32_t milliseconds)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += milliseconds / 1000;
	until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}

int symcall_wait(struct vcpu *vcpu, struct symcall_call *call, uint32_t milliseconds)
{
	struct symcall *symcall = vcpu->symcall;
	struct timespec until = later(milliseconds);
	int finished;

	if (!symcall)
		return 1;
	pthread_mutex_lock(&symcall->lock);
	while (!call->message.finished &&
	       pthread_cond_timedwait(&symcall->over, &symcall->lock, &until) != ETIMEDOUT)
		;
	finished = (int)call->message.finished;
	pthread_mutex_unlock(&symcall->lock);
	return finished;
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
	pthread_mutex_unlock(&symcall->lock);
	return found;
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

	if (call && symcall_begin_posted(vcpu->symcall, call))
		symcall_wake_caller(vcpu->symcall, call);
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

		symcall_abandon(vcpu, status == SYMCALL_FAULT ? SYMCALL_FAULT : SYMCALL_STOPPED);
	}
	for (struct symcall_call *call = take_first(symcall); call; call = take_first(symcall)) {
		symcall_refuse(call, SYMCALL_STOPPED, "");
		symcall_wake_caller(symcall, call);
	}
}
