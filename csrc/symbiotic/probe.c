/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/probe.h"

#include <errno.h>
#include <string.h>

#include "symbiotic/begin.h"

/* The guest's registers stay what they were: the results are for nobody. */
static int probe_done(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs)
{
	(void)vcpu;
	(void)call;
	(void)regs;
	return 0;
}

static int on_probe(void *opaque, struct bus_access *access)
{
	struct vcpu *vcpu = access->vcpu;
	struct symcall_message *message;
	int error;

	(void)opaque;
	/* The elements of a string write would come again. */
	if (!access->is_write || vcpu->exit.count != 1 || !vcpu->symcall || vcpu->symcall->active)
		return BUS_FAULT;
	/* Puts RIP past the instruction. Nothing more comes of a single write. */
	vcpu->run->kvm_valid_regs = CONTEXT_SYNC;
	error = vcpu_settle_step(vcpu);
	if (error != -EINTR)
		return error ? vcpu_fail(vcpu, -error) : VCPU_UNKNOWN_EXIT;
	message = symcall_message(vcpu->symcall->echo);
	message->number = SYMCALL_TEST;
	memset(message->regs, 0, sizeof(message->regs));
	/* A refusal is counted where all are. */
	(void)symcall_begin(vcpu, vcpu->symcall->echo, probe_done);
	return BUS_DONE;
}

int probe_attach(struct bus *pio, uint64_t port)
{
	return bus_add(pio, port, 1, on_probe, NULL);
}
