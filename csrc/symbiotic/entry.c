/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/entry.h"

#include "symbiotic/symcall.h"

/* Sign-extended from bit 56, the widest that any CPU takes; the call itself looks closer. */
static bool canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 7) >> 7) == address;
}

static uint64_t *field_of(struct context_entry *entry, uint64_t msr)
{
	switch (msr) {
	case SYMCALL_MSR_RIP:
		return &entry->rip;
	case SYMCALL_MSR_RSP:
		return &entry->rsp;
	case SYMCALL_MSR_CS:
		return &entry->cs;
	case SYMCALL_MSR_GS:
		return &entry->gs;
	case SYMCALL_MSR_FS:
		return &entry->fs;
	case SYMCALL_MSR_CR3_CLEAR:
		return &entry->cr3_clear;
	default:
		return &entry->promises;
	}
}

static bool acceptable(uint64_t msr, uint64_t value)
{
	switch (msr) {
	case SYMCALL_MSR_CS:
		return value <= 0xffff && !(value & 7);
	case SYMCALL_MSR_CR3_CLEAR:
		return !(value >> 52);
	case SYMCALL_MSR_PROMISES:
		return !(value & ~(uint64_t)CONTEXT_PROMISE_STATE_KEPT);
	default:
		return canonical(value);
	}
}

static int on_msr(void *opaque, struct bus_access *access)
{
	struct symcall *symcall = access->vcpu->symcall;
	uint64_t *field;

	(void)opaque;
	if (!symcall)
		return BUS_FAULT;
	field = field_of(&symcall->entry, access->address);
	if (!access->is_write) {
		access->value = *field;
		return BUS_DONE;
	}
	if (!acceptable(access->address, access->value)) {
		symcall->counters.msr_refused++;
		return BUS_FAULT;
	}
	if (symcall->active)
		symcall->counters.reregistered++;
	if (access->address == SYMCALL_MSR_RIP)
		symcall->disabled = false;
	*field = access->value;
	return BUS_DONE;
}

int symcall_attach(struct bus *msr)
{
	int error = bus_add(msr, SYMCALL_MSR_RIP, SYMCALL_MSR_PROMISES - SYMCALL_MSR_RIP + 1,
	                    on_msr, NULL);

	return error ? error : bus_add(msr, SYMCALL_MSR_FS, 1, on_msr, NULL);
}
