/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls the integrity guest from another thread, one call at a time, as fast as C can, and notes
 * what each interrupted. Only where nobody else calls: then the context of the last call stands
 * until the next one begins.
 */
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "guests/mix.h"
#include "machine/vcpu.h"
#include "symbiotic/symcall.h"

enum {
	UPCALL_FIRST = 0x1000, /* as in tests/support/guests/integrity.h */
	ERRNOS = 4095,
	LONGEST_PAUSE = 80000, /* nanoseconds */
	LONGEST_DATA = 64,
};

/* cffi: begin */
struct steady_caller {
	/* To be given: whom to call, how, and bits of numbers. */
	struct vcpu *vcpu;
	struct symcall_call *call;
	void (*post)(struct vcpu *vcpu, struct symcall_call *call);
	int (*wait)(struct vcpu *vcpu, struct symcall_call *call, uint32_t milliseconds);
	uint64_t random;
	uint64_t numbers; /* what a call may lose */
	uint64_t cheap;   /* what most calls do */
	uint64_t fail;    /* the bit of a call that fails */

	/* Of the calls so far. */
	uint64_t returned;
	uint64_t failed;
	uint64_t interrupted[2]; /* at CPL 0, at CPL 3 */
	uint64_t moved; /* at another instruction than the call before, or another turn of a loop */
	uint64_t in_nmi;   /* while one was being served */
	uint64_t rip, rcx; /* of the last */
	uint64_t wrong[4]; /* number, status, what it brought, what it was to bring */
};

/* Makes so many calls, or fewer if one goes wrong: 0, or -1 and `wrong`. */
int steady_caller_run(struct steady_caller *caller, uint64_t calls);
/* cffi: end */

static uint64_t any(struct steady_caller *caller)
{
	return mix(caller->random++);
}

/* Half of them TEST, most others cheap, one in 64 all that there is. */
static uint64_t choose(struct steady_caller *caller)
{
	uint64_t bits = any(caller), what = caller->numbers;

	if (bits & 1 << 16)
		return SYMCALL_TEST;
	if (bits >> 17 & 31)
		what &= bits;
	if (bits >> 22 & 7)
		what &= caller->cheap;
	if (!(bits >> 25 & 7))
		what |= caller->fail;
	return UPCALL_FIRST + what;
}

/* Then the guest is somewhere else, even if it goes on late. */
static void pause_somewhat(struct steady_caller *caller)
{
	struct timespec pause = {.tv_nsec = (long)(any(caller) % LONGEST_PAUSE)};

	nanosleep(&pause, NULL);
}

static void note_context(struct steady_caller *caller)
{
	const struct context *context = &caller->vcpu->symcall->context;

	caller->interrupted[!context_is_kernel(&context->sregs)]++;
	caller->moved += context->regs.rip != caller->rip || context->regs.rcx != caller->rcx;
	caller->in_nmi += context->events.nmi.masked;
	caller->rip = context->regs.rip;
	caller->rcx = context->regs.rcx;
}

static int complain(struct steady_caller *caller, uint64_t got, uint64_t wanted)
{
	caller->wrong[0] = caller->call->message.number;
	caller->wrong[1] = caller->call->message.status;
	caller->wrong[2] = got;
	caller->wrong[3] = wanted;
	return -1;
}

static int check(struct steady_caller *caller, const uint64_t *given)
{
	const struct symcall_message *message = &caller->call->message;
	bool test = message->number == SYMCALL_TEST;
	uint64_t first = (test ? given[0] : mix(given[0] ^ message->number)) + 1;

	if (!test && (message->number - UPCALL_FIRST) & caller->fail) {
		caller->failed++;
		if (message->status != SYMCALL_ERROR || message->error != 1 + first % ERRNOS)
			return complain(caller, message->error, 1 + first % ERRNOS);
		return 0;
	}
	caller->returned++;
	if (message->status != SYMCALL_OK || message->regs[0] != first)
		return complain(caller, message->regs[0], first);
	for (int i = 1; i < SYMCALL_REGISTERS; i++)
		if (message->regs[i] != given[i] + 1)
			return complain(caller, message->regs[i], given[i] + 1);
	return 0;
}

static int one(struct steady_caller *caller)
{
	struct symcall_message *message = &caller->call->message;
	uint64_t given[SYMCALL_REGISTERS];

	message->number = choose(caller);
	for (int i = 0; i < SYMCALL_REGISTERS; i++)
		given[i] = any(caller);
	given[4] %= LONGEST_DATA; /* the handler takes it for a length */
	memcpy(message->regs, given, sizeof(given));
	caller->post(caller->vcpu, caller->call);
	while (!caller->wait(caller->vcpu, caller->call, 1000))
		;
	if (message->status != SYMCALL_OK && message->status != SYMCALL_ERROR)
		return complain(caller, 0, 0);
	note_context(caller);
	return check(caller, given);
}

int steady_caller_run(struct steady_caller *caller, uint64_t calls)
{
	for (; calls; calls--) {
		if (one(caller))
			return -1;
		pause_somewhat(caller);
	}
	return 0;
}
