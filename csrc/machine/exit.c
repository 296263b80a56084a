/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/exit.h"

#include <linux/kvm.h>

static bool take_port(struct vcpu_exit *exit, struct kvm_run *run, uint32_t run_size)
{
	uint64_t offset = run->io.data_offset, size;

	exit->access = VCPU_PORT;
	exit->address = run->io.port;
	exit->length = run->io.size;
	exit->count = run->io.count;
	exit->is_write = run->io.direction == KVM_EXIT_IO_OUT;
	exit->data = (uint8_t *)run + offset;
	size = (uint64_t)exit->length * exit->count;
	return (exit->length == 1 || exit->length == 2 || exit->length == 4) &&
	       size <= VCPU_EXIT_DATA && offset <= run_size && size <= run_size - offset;
}

static bool take_mmio(struct vcpu_exit *exit, struct kvm_run *run)
{
	exit->access = VCPU_MMIO;
	exit->address = run->mmio.phys_addr;
	exit->length = run->mmio.len;
	exit->count = 1;
	exit->is_write = run->mmio.is_write;
	exit->data = run->mmio.data;
	return exit->length <= sizeof(run->mmio.data);
}

static bool take_msr(struct vcpu_exit *exit, struct kvm_run *run, bool is_write)
{
	exit->access = VCPU_MSR;
	exit->address = run->msr.index;
	exit->length = sizeof(run->msr.data);
	exit->count = 1;
	exit->is_write = is_write;
	exit->data = (uint8_t *)&run->msr.data;
	return true;
}

bool vcpu_exit_take(struct vcpu_exit *exit, struct kvm_run *run, uint32_t run_size, uint32_t reason)
{
	struct vcpu_exit taken = {0};
	bool possible = true;

	switch (reason) {
	case KVM_EXIT_IO:
		possible = take_port(&taken, run, run_size);
		break;
	case KVM_EXIT_MMIO:
		possible = take_mmio(&taken, run);
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		possible = take_msr(&taken, run, reason == KVM_EXIT_X86_WRMSR);
		break;
	default:
		break;
	}
	if (!possible)
		taken = (struct vcpu_exit){0};
	*exit = taken;
	return possible;
}
