/* SPDX-License-Identifier: Apache-2.0 */
#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "symcall.h"

/* Real-time signals below SIGRTMIN + 8 are left to the program that imports us, as is SIGUSR1. */
#define KICK_SIGNAL (SIGRTMIN + 8)

static void on_kick(int number)
{
	/* Its arrival is all that matters: it makes KVM_RUN return with EINTR. */
	(void)number;
}

int vcpu_setup_kick(void)
{
	struct sigaction action = {.sa_handler = on_kick};

	sigemptyset(&action.sa_mask);
	return sigaction(KICK_SIGNAL, &action, NULL) ? -errno : 0;
}

struct vcpu *vcpu_create(int fd, uint32_t index, uintptr_t run, struct bus *pio, struct bus *mmio,
                         struct bus *msr)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));

	if (!vcpu)
		return NULL;
	vcpu->fd = fd;
	vcpu->index = index;
	vcpu->run = (struct kvm_run *)run;
	vcpu->pio = pio;
	vcpu->mmio = mmio;
	vcpu->msr = msr;
	vcpu->settled = 1;
	vcpu->may_sleep = 1;
	vcpu->touched = 1;
	return vcpu;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	free(vcpu);
}

void vcpu_attach(struct vcpu *vcpu)
{
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	__atomic_store_n(&vcpu->tid, (int)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
}

void vcpu_detach(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->tid, 0, __ATOMIC_SEQ_CST);
}

/*
 * A kick may come at any point of the loop. The request is set first, then immediate_exit, which
 * turns the next KVM_RUN back at its door; the signal is for a KVM_RUN that is inside already.
 */
void vcpu_request(struct vcpu *vcpu, uint32_t bits)
{
	int tid;

	__atomic_fetch_or(&vcpu->requests, bits, __ATOMIC_SEQ_CST);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = __atomic_load_n(&vcpu->tid, __ATOMIC_SEQ_CST);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

uint32_t vcpu_take_requests(struct vcpu *vcpu)
{
	/* About symcalls the loop forgets them itself, where it serves them: one that comes just
	 * now would be lost here. */
	const uint32_t kept = VCPU_REQUEST_SYMCALL | VCPU_REQUEST_LATE;

	/* In this order: a request that comes between the two leaves immediate_exit set, which
	 * costs one idle turn. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return __atomic_fetch_and(&vcpu->requests, kept, __ATOMIC_SEQ_CST);
}

/* Finds who serves the access. 0: done; positive: an event; BUS_FAULT: nobody, or refused. */
static int dispatch(struct vcpu *vcpu, struct bus *bus, struct bus_access *access)
{
	const struct bus_range *range = bus_find(bus, access->address);

	if (!range) {
		vcpu->unclaimed++;
		return BUS_FAULT;
	}
	access->offset = access->address - range->base;
	access->vcpu = vcpu;
	if (range->handler)
		return range->handler(range->opaque, access);
	vcpu->access = *access;
	vcpu->hook = range->hook;
	vcpu->hook_pending = 1;
	return VCPU_HOOK;
}

/* What a read returns where no device answers: the bus floats high. */
static void answer_nobody(struct bus_access *access, int result)
{
	if (result == BUS_FAULT)
		access->value = ~0ULL;
}

static uint8_t *port_data(struct vcpu *vcpu, uint32_t element)
{
	struct kvm_run *run = vcpu->run;

	return (uint8_t *)run + run->io.data_offset + (size_t)element * run->io.size;
}

static void finish_port(struct vcpu *vcpu, const struct bus_access *access)
{
	if (!access->is_write)
		memcpy(port_data(vcpu, vcpu->io_next), &access->value, access->length);
	vcpu->io_next++;
}

/* Serves the elements of a port exit from io_next on. */
static int serve_port(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	while (vcpu->io_next < run->io.count) {
		struct bus_access access = {
		        .address = run->io.port,
		        .length = run->io.size,
		        .is_write = run->io.direction == KVM_EXIT_IO_OUT,
		};
		int result;

		if (access.is_write)
			memcpy(&access.value, port_data(vcpu, vcpu->io_next), access.length);
		result = dispatch(vcpu, vcpu->pio, &access);
		if (result == VCPU_HOOK)
			return result;
		answer_nobody(&access, result);
		finish_port(vcpu, &access);
		if (result > 0)
			return result;
	}
	return 0;
}

static void finish_mmio(struct vcpu *vcpu, const struct bus_access *access)
{
	if (access->is_write)
		return;
	memcpy(vcpu->run->mmio.data, &access->value, access->length);
	if (vcpu->symcall)
		replay_remember(vcpu);
}

static int serve_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct bus_access access = {
	        .address = run->mmio.phys_addr,
	        .length = run->mmio.len,
	        .is_write = run->mmio.is_write,
	};
	int result;

	if (access.length > sizeof(access.value))
		return VCPU_UNKNOWN_EXIT;
	if (access.is_write)
		memcpy(&access.value, run->mmio.data, access.length);
	result = dispatch(vcpu, vcpu->mmio, &access);
	if (result == VCPU_HOOK)
		return result;
	answer_nobody(&access, result);
	finish_mmio(vcpu, &access);
	return result > 0 ? result : 0;
}

/* A refused MSR access raises #GP in the guest. */
static void finish_msr(struct vcpu *vcpu, const struct bus_access *access, int result)
{
	vcpu->run->msr.error = result == BUS_FAULT;
	if (!access->is_write)
		vcpu->run->msr.data = access->value;
}

static int serve_msr(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct bus_access access = {
	        .address = run->msr.index,
	        .length = sizeof(access.value),
	        .is_write = run->exit_reason == KVM_EXIT_X86_WRMSR,
	        .value = run->msr.data,
	};
	int result = dispatch(vcpu, vcpu->msr, &access);

	if (result == VCPU_HOOK)
		return result;
	finish_msr(vcpu, &access, result);
	return result > 0 ? result : 0;
}

static int serve_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return VCPU_POWEROFF;
	case KVM_SYSTEM_EVENT_RESET:
		return VCPU_REBOOT;
	case KVM_SYSTEM_EVENT_CRASH:
		return VCPU_PANIC;
	default:
		return VCPU_UNKNOWN_EXIT;
	}
}

int vcpu_serve(struct vcpu *vcpu)
{
	uint32_t reason = vcpu->run->exit_reason;

	vcpu->exit_reason = reason;
	vcpu->exits[reason < VCPU_EXIT_KINDS ? reason : 0]++;
	if (vcpu->lingering && symcall_lingered(vcpu))
		return 0;
	switch (reason) {
	case KVM_EXIT_IO:
		vcpu->io_next = 0;
		return serve_port(vcpu);
	case KVM_EXIT_MMIO:
		return serve_mmio(vcpu);
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		return serve_msr(vcpu);
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		return 0;
	case KVM_EXIT_HLT:
		return VCPU_HALTED;
	case KVM_EXIT_DEBUG:
		return VCPU_DEBUG;
	case KVM_EXIT_SHUTDOWN:
		return VCPU_TRIPLE_FAULT;
	case KVM_EXIT_SYSTEM_EVENT:
		return serve_system_event(vcpu);
	case KVM_EXIT_FAIL_ENTRY:
		return VCPU_ENTRY_FAILURE;
	case KVM_EXIT_INTERNAL_ERROR:
		return VCPU_INTERNAL_ERROR;
	default:
		return VCPU_UNKNOWN_EXIT;
	}
}

static int resume_hook(struct vcpu *vcpu)
{
	vcpu->hook_pending = 0;
	switch (vcpu->exit_reason) {
	case KVM_EXIT_IO:
		finish_port(vcpu, &vcpu->access);
		return serve_port(vcpu);
	case KVM_EXIT_MMIO:
		finish_mmio(vcpu, &vcpu->access);
		return 0;
	default:
		finish_msr(vcpu, &vcpu->access, vcpu->error);
		vcpu->error = 0;
		return 0;
	}
}

/* Takes the hook's answer over and goes on with what it interrupted. */
int vcpu_resume(struct vcpu *vcpu)
{
	int event = resume_hook(vcpu);

	if (!event && vcpu->symcall)
		replay_take_answer(vcpu);
	return event;
}

static int fail(struct vcpu *vcpu, int error)
{
	vcpu->error = error;
	/* EFAULT and the like may still carry an exit reason; the caller reports both. */
	vcpu->exit_reason = vcpu->run->exit_reason;
	return VCPU_IOCTL_FAILED;
}

static int enter(struct vcpu *vcpu)
{
	int result = ioctl(vcpu->fd, KVM_RUN, 0);

	vcpu->touched = 0;
	vcpu->settled = result != 0;
	vcpu->may_sleep = result != 0;
	if (!result)
		return vcpu_serve(vcpu);
	if (errno != EINTR && errno != EAGAIN)
		return fail(vcpu, errno);
	/* Cleared before the requests are looked at, so that no kick is lost. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	vcpu->exits[KVM_EXIT_INTR]++;
	return 0;
}

int vcpu_settle_step(struct vcpu *vcpu)
{
	uint8_t before = __atomic_exchange_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	/* Fails with EINTR by design: completion comes first, then the door is found shut. */
	int result = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;

	if (!before)
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	vcpu->touched = 0;
	vcpu->settled = result == -EINTR;
	if (!result)
		vcpu->may_sleep = 0;
	return result;
}

static int settle(struct vcpu *vcpu)
{
	int result = vcpu_settle_step(vcpu);

	if (!result)
		return vcpu_serve(vcpu);
	return result == -EINTR ? 0 : fail(vcpu, -result);
}

static void forget_request(struct vcpu *vcpu, uint32_t bit)
{
	__atomic_fetch_and(&vcpu->requests, ~bit, __ATOMIC_SEQ_CST);
}

static int serve_requests(struct vcpu *vcpu, uint32_t requests)
{
	if (!vcpu->settled)
		return settle(vcpu);
	if (requests & VCPU_REQUEST_LATE) {
		forget_request(vcpu, VCPU_REQUEST_LATE);
		return symcall_late(vcpu);
	}
	if (requests & VCPU_REQUEST_STOP)
		return VCPU_KICKED;
	if (requests & VCPU_REQUEST_SYMCALL) {
		forget_request(vcpu, VCPU_REQUEST_SYMCALL);
		return symcall_next(vcpu);
	}
	return VCPU_KICKED;
}

/* During a symcall the others wait: it is short, or too late. */
static uint32_t heeded(const struct vcpu *vcpu)
{
	return vcpu->in_symcall ? VCPU_REQUEST_STOP | VCPU_REQUEST_LATE : ~0u;
}

static int go_on(struct vcpu *vcpu)
{
	uint32_t requests = __atomic_load_n(&vcpu->requests, __ATOMIC_SEQ_CST) & heeded(vcpu);

	if (requests)
		return serve_requests(vcpu, requests);
	if (vcpu->held && !vcpu->in_symcall)
		return VCPU_KICKED;
	return enter(vcpu);
}

/* What the guest's handler of a symcall did to the vCPU may be undone. */
static bool may_be_undone(int event)
{
	return event == VCPU_TRIPLE_FAULT || event == VCPU_INTERNAL_ERROR ||
	       event == VCPU_ENTRY_FAILURE || event == VCPU_IOCTL_FAILED || event == VCPU_HALTED;
}

static int end_of_symcall(struct vcpu *vcpu, int event)
{
	if (event == VCPU_RETURNED)
		return symcall_returned(vcpu);
	return vcpu->in_symcall && may_be_undone(event) ? symcall_collapsed(vcpu, event) : event;
}

int vcpu_flush(struct vcpu *vcpu)
{
	int result = 0;

	if (vcpu->run->kvm_dirty_regs)
		result = vcpu_settle_step(vcpu);
	vcpu->touched = 1;
	return result == -EINTR ? 0 : result;
}

int vcpu_run(struct vcpu *vcpu)
{
	int event = vcpu->hook_pending ? vcpu_resume(vcpu) : 0;

	for (;;) {
		if (event)
			event = end_of_symcall(vcpu, event);
		if (event)
			return event;
		event = go_on(vcpu);
	}
}
