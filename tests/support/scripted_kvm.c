/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands for KVM under the vCPU loop: each KVM_RUN gives the next exit of a list, so that exits
 * which no guest can bring about at will are tested too.
 */
#include "scripted_kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "fake_kvm.h"

static struct kvm_run *shared;
static const struct fake_exit *exits;
static unsigned int left;
static struct fake_vcpu vcpu;
static struct fake_port port;
static unsigned int unfinished; /* bytes of the instruction whose exit was the last one */

void fake_kvm(void *run, const struct fake_exit *list, unsigned int count)
{
	shared = run;
	exits = list;
	left = count;
	vcpu = (struct fake_vcpu){
	        .regs = &shared->s.regs.regs,
	        .sregs = &shared->s.regs.sregs,
	        .events = &shared->s.regs.events,
	};
	fake_sleep(0);
	unfinished = 0;
	fake_port(4, 1, FAKE_PORT_DATA);
}

void fake_port(unsigned int size, unsigned int count, unsigned long long offset)
{
	port.size = (uint8_t)size;
	port.count = count;
	port.offset = offset;
}

void fake_nested(unsigned int flags, int error)
{
	vcpu.nested = (uint16_t)flags;
	vcpu.nested_error = error;
}

void fake_sleep(unsigned int asleep)
{
	vcpu.mp_state = asleep ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
}

unsigned int fake_sleeps(void)
{
	return vcpu.mp_state == KVM_MP_STATE_HALTED;
}

void fake_smm(void *run, unsigned int on)
{
	((struct kvm_run *)run)->s.regs.events.smi.smm = (unsigned char)on;
}

void fake_nmi_masked(void *run, unsigned int on)
{
	((struct kvm_run *)run)->s.regs.events.nmi.masked = (unsigned char)on;
}

unsigned int fake_debug_control(void)
{
	return vcpu.debug_control;
}

void fake_enter_long_mode(void *run)
{
	fake_long_mode(&((struct kvm_run *)run)->s.regs.sregs);
}

struct kvm_regs *fake_registers(void *run)
{
	return &((struct kvm_run *)run)->s.regs.regs;
}

unsigned int fake_dirty(void *run)
{
	return ((struct kvm_run *)run)->kvm_dirty_regs != 0;
}

/* The second half of an access: as in KVM, RIP goes on when the vCPU is entered again. */
static void complete(void)
{
	shared->s.regs.regs.rip += unfinished;
	unfinished = 0;
}

static void fill(const struct fake_exit *next)
{
	shared->exit_reason = next->reason;
	if (next->reason == KVM_EXIT_MMIO || next->reason == KVM_EXIT_IO)
		unfinished = FAKE_INSTRUCTION;
	switch (next->reason) {
	case KVM_EXIT_SYSTEM_EVENT:
		shared->system_event.type = next->detail;
		break;
	case KVM_EXIT_MMIO:
		shared->mmio.phys_addr = 0xd0000000;
		shared->mmio.len = next->detail;
		shared->mmio.is_write = next->value != 0;
		memcpy(shared->mmio.data, &next->value, sizeof(shared->mmio.data));
		break;
	case KVM_EXIT_IO:
		port.number = (uint16_t)next->detail;
		fake_out(shared, &port, (uint32_t)next->value);
		break;
	case KVM_EXIT_X86_WRMSR:
		shared->msr.index = next->detail;
		shared->msr.data = next->value;
		break;
	case KVM_EXIT_SHUTDOWN:
		/* SVM: the vCPU was reset. */
		if (next->detail)
			memset(&shared->s.regs.sregs, 0, sizeof(shared->s.regs.sregs));
		break;
	default:
		break;
	}
}

struct fake_vcpu *fake_vcpu_of(int fd, unsigned long request)
{
	(void)fd;
	(void)request;
	return &vcpu;
}

int fake_run(int fd)
{
	(void)fd;
	complete();
	if (shared->immediate_exit && !(left && exits->goes_on)) {
		errno = EINTR;
		return -1;
	}
	if (!left) {
		errno = ENOTTY;
		return -1;
	}
	shared->kvm_dirty_regs = 0;
	left--;
	if (exits->error) {
		errno = exits++->error;
		return -1;
	}
	fill(exits++);
	return 0;
}
