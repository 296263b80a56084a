/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands for KVM under the vCPU loop: each KVM_RUN gives the next exit of a list, so that exits
 * which no guest can bring about at will are tested too.
 */
#include "fake_kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>

/* Where in the shared area the bytes of a port lie. */
enum { PORT_DATA = 8192 };

static struct kvm_run *shared;
static const struct fake_exit *exits;
static unsigned int left;
static unsigned int nested_state; /* flags, or an errno to refuse with */
static int nested_error;
static unsigned int mp_state;
static unsigned int debug_control; /* as KVM was told last */
static struct {
	unsigned int size, count;
	unsigned long long offset;
} port;
static unsigned int unfinished; /* bytes of the instruction whose exit was the last one */

void fake_kvm(void *run, const struct fake_exit *list, unsigned int count)
{
	shared = run;
	exits = list;
	left = count;
	nested_state = 0;
	nested_error = 0;
	debug_control = 0;
	fake_sleep(0);
	unfinished = 0;
	fake_port(4, 1, PORT_DATA);
}

void fake_port(unsigned int size, unsigned int count, unsigned long long offset)
{
	port.size = size;
	port.count = count;
	port.offset = offset;
}

void fake_nested(unsigned int flags, int error)
{
	nested_state = flags;
	nested_error = error;
}

void fake_sleep(unsigned int asleep)
{
	mp_state = asleep ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
}

unsigned int fake_sleeps(void)
{
	return mp_state == KVM_MP_STATE_HALTED;
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
	return debug_control;
}

void fake_enter_long_mode(void *run)
{
	struct kvm_sregs *sregs = &((struct kvm_run *)run)->s.regs.sregs;

	sregs->efer = 1 << 10;
	sregs->cr0 = 0x80000001;
	sregs->cs.selector = 0x10;
	sregs->cs.l = 1;
	sregs->gdt.limit = 0x7f;
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
		shared->io.direction = KVM_EXIT_IO_OUT;
		shared->io.size = (unsigned char)port.size;
		shared->io.count = port.count;
		shared->io.port = (unsigned short)next->detail;
		shared->io.data_offset = port.offset;
		memcpy((char *)shared + PORT_DATA, &next->value, 4);
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

/* Calls about state: there is none but the shared registers. */
static int about_state(unsigned long request, void *argument)
{
	switch (request) {
	case KVM_GET_REGS:
		*(struct kvm_regs *)argument = shared->s.regs.regs;
		return 0;
	case KVM_GET_SREGS:
		*(struct kvm_sregs *)argument = shared->s.regs.sregs;
		return 0;
	case KVM_GET_VCPU_EVENTS:
		*(struct kvm_vcpu_events *)argument = shared->s.regs.events;
		return 0;
	case KVM_GET_MP_STATE:
		((struct kvm_mp_state *)argument)->mp_state = mp_state;
		return 0;
	case KVM_SET_MP_STATE:
		mp_state = ((struct kvm_mp_state *)argument)->mp_state;
		return 0;
	case KVM_SET_GUEST_DEBUG:
		debug_control = ((struct kvm_guest_debug *)argument)->control;
		return 0;
	case KVM_GET_NESTED_STATE:
		((struct kvm_nested_state *)argument)->flags = (unsigned short)nested_state;
		errno = nested_error;
		return nested_error ? -1 : 0;
	default:
		errno = ENOTTY;
		return -1;
	}
}

int fake_ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	void *argument;

	(void)fd;
	va_start(rest, request);
	argument = va_arg(rest, void *);
	va_end(rest);
	if (request != KVM_RUN)
		return about_state(request, argument);
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
