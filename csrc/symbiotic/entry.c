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
	case MSR_SYMBIOTIC_RIP:
		return &entry->rip;
	case MSR_SYMBIOTIC_RSP:
		return &entry->rsp;
	case MSR_SYMBIOTIC_CS:
		return &entry->cs;
	case MSR_SYMBIOTIC_GS_BASE:
		return &entry->gs;
	case MSR_SYMBIOTIC_FS_BASE:
		return &entry->fs;
	case MSR_SYMBIOTIC_CR3_CLEAR:
		return &entry->cr3_clear;
	default:
		return &entry->promises;
	}
}

static bool acceptable(uint64_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_SYMBIOTIC_CS:
		return value <= 0xffff && !(value & 7);
	case MSR_SYMBIOTIC_CR3_CLEAR:
		return !(value >> 52);
	case MSR_SYMBIOTIC_PROMISES:
		return !(value & ~(uint64_t)SYMBIOTIC_PROMISE_NO_FPU);
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
	if (access->address == MSR_SYMBIOTIC_RIP)
		symcall->disabled = false;
	*field = access->value;
	return BUS_DONE;
}

int symcall_attach(struct bus *msr)
{
	int error = bus_add(msr, MSR_SYMBIOTIC_RIP, MSR_SYMBIOTIC_PROMISES - MSR_SYMBIOTIC_RIP + 1,
	                    on_msr, NULL);

	return error ? error : bus_add(msr, MSR_SYMBIOTIC_FS_BASE, 1, on_msr, NULL);
}
