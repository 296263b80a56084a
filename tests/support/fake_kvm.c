/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_kvm.h"

#include <errno.h>
#include <string.h>

enum {
	EFER_LMA = 1 << 10,
	CR0_PE = 1,
	CR0_PG = 1u << 31,
};

static int fail(int error)
{
	errno = error;
	return -1;
}

static int about_state(struct fake_vcpu *vcpu, unsigned long request, void *argument)
{
	switch (request) {
	case KVM_GET_REGS:
		*(struct kvm_regs *)argument = *vcpu->regs;
		return 0;
	case KVM_GET_SREGS:
		*(struct kvm_sregs *)argument = *vcpu->sregs;
		return 0;
	case KVM_GET_VCPU_EVENTS:
		*(struct kvm_vcpu_events *)argument = *vcpu->events;
		return 0;
	case KVM_GET_MP_STATE:
		((struct kvm_mp_state *)argument)->mp_state = vcpu->mp_state;
		return 0;
	case KVM_SET_MP_STATE:
		vcpu->mp_state = ((struct kvm_mp_state *)argument)->mp_state;
		return 0;
	case KVM_SET_GUEST_DEBUG:
		vcpu->debug_control = ((struct kvm_guest_debug *)argument)->control;
		return 0;
	case KVM_GET_NESTED_STATE:
		((struct kvm_nested_state *)argument)->flags = vcpu->nested;
		return vcpu->nested_error ? fail(vcpu->nested_error) : 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return vcpu->has_extras ? 1 : fail(ENOTTY); /* that many were moved */
	case KVM_GET_XSAVE:
	case KVM_GET_XSAVE2:
	case KVM_SET_XSAVE:
		return vcpu->has_extras ? 0 : fail(ENOTTY);
	default:
		return fail(ENOTTY);
	}
}

int fake_ioctl_with(int fd, unsigned long request, va_list rest)
{
	void *argument = va_arg(rest, void *);
	struct fake_vcpu *vcpu;

	if (request == KVM_RUN)
		return fake_run(fd);
	vcpu = fake_vcpu_of(fd, request);
	return vcpu ? about_state(vcpu, request, argument) : -1;
}

int fake_ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	int result;

	va_start(rest, request);
	result = fake_ioctl_with(fd, request, rest);
	va_end(rest);
	return result;
}

void fake_long_mode(struct kvm_sregs *sregs)
{
	sregs->efer = EFER_LMA;
	sregs->cr0 = CR0_PG | CR0_PE;
	sregs->cs.selector = 0x10;
	sregs->cs.l = 1;
	sregs->gdt.limit = 0x7f;
}

void fake_out(struct kvm_run *run, const struct fake_port *port, uint32_t value)
{
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = KVM_EXIT_IO_OUT;
	run->io.size = port->size;
	run->io.count = port->count;
	run->io.port = port->number;
	run->io.data_offset = port->offset;
	memcpy((uint8_t *)run + FAKE_PORT_DATA, &value, sizeof(value));
}
