/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/symcall.h"

#include <stdio.h>
#include <stdlib.h>

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

int symcall_is_active(const struct vcpu *vcpu)
{
	return vcpu->symcall && vcpu->symcall->active;
}

uint64_t symcall_number(const struct vcpu *vcpu)
{
	return vcpu->symcall ? vcpu->symcall->number : 0;
}

int symcall_refuse(struct symcall_call *call, enum symcall_status status, const char *text)
{
	call->message.status = status;
	snprintf(call->message.text, sizeof(call->message.text), "%s", text);
	return VCPU_SYMCALL;
}
