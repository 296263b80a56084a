/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/vcpu_exit.h"

#include <linux/kvm.h>

static bool take_port(struct vcpu *vcpu, struct vcpu_exit *exit)
{
	const struct kvm_run *run = vcpu->run;
	uint64_t offset = run->io.data_offset, size;

	exit->bus = vcpu->pio;
	exit->address = run->io.port;
	exit->length = run->io.size;
	exit->count = run->io.count;
	exit->is_write = run->io.direction == KVM_EXIT_IO_OUT;
	exit->data = (uint8_t *)vcpu->run + offset;
	size = (uint64_t)exit->length * exit->count;
	return (exit->length == 1 || exit->length == 2 || exit->length == 4) &&
	       size <= VCPU_EXIT_DATA && offset <= vcpu->run_size &&
	       size <= vcpu->run_size - offset;
}

static bool take_mmio(struct vcpu *vcpu, struct vcpu_exit *exit)
{
	struct kvm_run *run = vcpu->run;

	exit->bus = vcpu->mmio;
	exit->address = run->mmio.phys_addr;
	exit->length = run->mmio.len;
	exit->count = 1;
	exit->is_write = run->mmio.is_write;
	exit->data = run->mmio.data;
	return exit->length <= sizeof(run->mmio.data);
}

static bool take_msr(struct vcpu *vcpu, struct vcpu_exit *exit, bool is_write)
{
	struct kvm_run *run = vcpu->run;

	exit->bus = vcpu->msr;
	exit->address = run->msr.index;
	exit->length = sizeof(run->msr.data);
	exit->count = 1;
	exit->is_write = is_write;
	exit->data = (uint8_t *)&run->msr.data;
	return true;
}

bool vcpu_exit_take(struct vcpu *vcpu, uint32_t reason)
{
	struct vcpu_exit exit = {0};
	bool possible = true;

	switch (reason) {
	case KVM_EXIT_IO:
		possible = take_port(vcpu, &exit);
		break;
	case KVM_EXIT_MMIO:
		possible = take_mmio(vcpu, &exit);
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		possible = take_msr(vcpu, &exit, reason == KVM_EXIT_X86_WRMSR);
		break;
	default:
		break;
	}
	if (!possible)
		exit = (struct vcpu_exit){0};
	vcpu->exit = exit;
	return possible;
}
