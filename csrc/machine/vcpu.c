/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "machine/overlay.h"

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

struct vcpu *vcpu_create(int fd, uint32_t index, uintptr_t run, uint32_t run_size, struct bus *pio,
                         struct bus *mmio, struct bus *msr)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));

	if (!vcpu)
		return NULL;
	vcpu->fd = fd;
	vcpu->index = index;
	vcpu->run = (struct kvm_run *)run;
	vcpu->run_size = run_size;
	vcpu->buses[VCPU_PORT] = pio;
	vcpu->buses[VCPU_MMIO] = mmio;
	vcpu->buses[VCPU_MSR] = msr;
	vcpu->settled = 1;
	vcpu->may_sleep = 1;
	vcpu->touched = 1;
	vcpu->heeds = VCPU_HEED_ALL;
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
	/* The loop forgets the overlay's itself, where it passes them on: one that comes just now
	 * would be lost here. */
	const uint32_t kept = VCPU_REQUEST_OVERLAY | VCPU_REQUEST_LATE;

	/* In this order: a request that comes between the two leaves immediate_exit set, which
	 * costs one idle turn. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return __atomic_fetch_and(&vcpu->requests, kept, __ATOMIC_SEQ_CST);
}

int vcpu_memory_gone(void *opaque, struct bus_access *access)
{
	(void)opaque;
	access->vcpu->error = EFAULT;
	return VCPU_IOCTL_FAILED;
}

/* Finds who serves the access. 0: done; positive: an event; BUS_FAULT: nobody, or refused. */
static int dispatch(struct vcpu *vcpu, struct bus_access *access)
{
	struct bus *bus = vcpu->buses[vcpu->exit.access];
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

/* Where no device answers the bus floats high; for an MSR that nobody has KVM raises #GP. */
static void finish_element(struct vcpu *vcpu, const struct bus_access *access, bool refused)
{
	struct vcpu_exit *exit = &vcpu->exit;
	uint64_t value = refused ? ~0ULL : access->value;

	if (!exit->is_write)
		memcpy(vcpu_exit_element(exit), &value, exit->length);
	if (exit->access == VCPU_MSR)
		vcpu->run->msr.error = refused;
	exit->next++;
	if (vcpu->overlay && vcpu_exit_is_input(exit))
		vcpu->overlay->answered(vcpu);
}

/* Serves the elements that are left of the access at hand. */
static int serve_access(struct vcpu *vcpu)
{
	struct vcpu_exit *exit = &vcpu->exit;

	while (exit->next < exit->count) {
		/* There may be a thousand elements, each with a hook that takes its time. */
		if (exit->next && vcpu_must_leave(vcpu))
			return 0;
		struct bus_access access = {
		        .address = exit->address,
		        .length = exit->length,
		        .is_write = exit->is_write,
		};
		int result;

		if (exit->is_write)
			memcpy(&access.value, vcpu_exit_element(exit), exit->length);
		result = dispatch(vcpu, &access);
		if (result == VCPU_HOOK)
			return result;
		finish_element(vcpu, &access, result == BUS_FAULT);
		if (result > 0)
			return result;
	}
	return 0;
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
	if (!vcpu_exit_take(&vcpu->exit, vcpu->run, vcpu->run_size, reason))
		return VCPU_UNKNOWN_EXIT;
	if (vcpu->watched && vcpu->overlay->exit(vcpu)) {
		vcpu->exit.next = vcpu->exit.count;
		return 0;
	}
	if (vcpu->exit.access)
		return serve_access(vcpu);
	switch (reason) {
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

/* Takes the hook's answer over and goes on with what it interrupted. */
int vcpu_resume(struct vcpu *vcpu)
{
	vcpu->hook_pending = 0;
	finish_element(vcpu, &vcpu->access, vcpu->access.refused);
	return serve_access(vcpu);
}

int vcpu_fail(struct vcpu *vcpu, int error)
{
	vcpu->error = error;
	/* EFAULT and the like may still carry an exit reason; the caller reports both. */
	vcpu->exit_reason = vcpu->run->exit_reason;
	return VCPU_IOCTL_FAILED;
}

int vcpu_give_up(struct vcpu *vcpu, int error)
{
	vcpu->broken = 1;
	vcpu->error = error;
	return VCPU_UNFINISHED;
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
		return vcpu_fail(vcpu, errno);
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
	return result == -EINTR ? 0 : vcpu_fail(vcpu, -result);
}

bool vcpu_must_leave(const struct vcpu *vcpu)
{
	uint32_t bits = vcpu->heeds & (VCPU_REQUEST_STOP | VCPU_REQUEST_LATE);

	return __atomic_load_n(&vcpu->requests, __ATOMIC_RELAXED) & bits;
}

static int pass_on(struct vcpu *vcpu, uint32_t request)
{
	__atomic_fetch_and(&vcpu->requests, ~request, __ATOMIC_SEQ_CST);
	return vcpu->overlay ? vcpu->overlay->request(vcpu, request) : 0;
}

/* The guest is late with a task of the overlay, or was: then the access at hand goes on. */
static int serve_late(struct vcpu *vcpu)
{
	int event = pass_on(vcpu, VCPU_REQUEST_LATE);

	return event || vcpu->settled ? event : serve_access(vcpu);
}

/* The machine stops: what KVM has open is finished as far as that needs nobody. */
static int leave(struct vcpu *vcpu)
{
	bool cut = vcpu->exit.next < vcpu->exit.count;
	int result = vcpu->settled ? -EINTR : vcpu_settle_step(vcpu);

	if (result && result != -EINTR)
		return vcpu_fail(vcpu, -result);
	if (cut || !result)
		vcpu_give_up(vcpu, ECANCELED);
	return VCPU_KICKED;
}

static int serve_requests(struct vcpu *vcpu, uint32_t requests)
{
	/* Both before the exit at hand is settled: the rest of it may have a thousand exits, each
	 * with a hook, and none of them matters any more. */
	if (requests & VCPU_REQUEST_LATE)
		return serve_late(vcpu);
	if (requests & VCPU_REQUEST_STOP)
		return leave(vcpu);
	if (!vcpu->settled)
		return settle(vcpu);
	if (requests & VCPU_REQUEST_OVERLAY)
		return pass_on(vcpu, VCPU_REQUEST_OVERLAY);
	return VCPU_KICKED;
}

static int go_on(struct vcpu *vcpu)
{
	uint32_t requests = __atomic_load_n(&vcpu->requests, __ATOMIC_SEQ_CST) & vcpu->heeds;

	if (requests)
		return serve_requests(vcpu, requests);
	/* A pause that lasts: it waits for the overlay as one does. */
	if (vcpu->held && vcpu->heeds & VCPU_REQUEST_PAUSE)
		return VCPU_KICKED;
	return enter(vcpu);
}

int vcpu_flush(struct vcpu *vcpu)
{
	int result = -EINTR;

	if (vcpu->run->kvm_dirty_regs)
		result = vcpu_settle_step(vcpu);
	vcpu->touched = 1;
	/* An exit that nobody waits for: what has registers to take has nothing left to finish. */
	if (!result)
		return -EBUSY;
	return result == -EINTR ? 0 : result;
}

int vcpu_run(struct vcpu *vcpu)
{
	int event = vcpu->hook_pending ? vcpu_resume(vcpu) : 0;

	if (vcpu->broken)
		return vcpu_must_leave(vcpu) ? VCPU_KICKED : VCPU_UNFINISHED;
	for (;;) {
		if (event && vcpu->overlay)
			event = vcpu->overlay->event(vcpu, event);
		if (event)
			return event;
		event = go_on(vcpu);
	}
}
