/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hand-over of symcalls between threads, for the sanitizers: two vCPUs whose KVM is scripted by
 * chance, threads that post calls to them and wait, give up or turn away at once, and the watch,
 * whose deadline some of the calls miss.
 *
 *     symcall_threads SEED ROUNDS
 *
 * makes so many calls in machines of some 500 calls each, of which every other one stops with the
 * callers at work. It prints how many calls came to which end.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fake_kvm.h"
#include "machine/memory.h"
#include "machine/vcpu.h"
#include "symbiotic/doorbell.h"
#include "symbiotic/entry.h"
#include "symbiotic/local.h"
#include "symbiotic/overlay.h"
#include "symbiotic/queue.h"
#include "symbiotic/symspy.h"
#include "symbiotic/watch.h"

enum {
	CPUS = 2,
	POSTERS = 3,
	CALLS = 500, /* in the life of a machine */
	RUN = 12288,
	RAM = 1 << 16,
	PAGES = 0x3000, /* where the guest puts the pages of its vCPUs */
	HOOK = 0x510,
	STATUSES = SYMCALL_HOST + 1,
	WITHDRAWN = STATUSES,
	DISOWNED,
	ENDS,
};

struct machine {
	uint8_t *ram;
	struct guest_memory *memory;
	struct bus *pio, *mmio, *msr, *hypercalls;
	struct symspy *symspy;
	struct symcall_watch *watch;
	struct vcpu *vcpus[CPUS];
	struct symcall *symcalls[CPUS];
	bool stop; /* atomic: the posters are to end */
};

struct poster {
	pthread_t thread;
	struct machine *machine;
	uint64_t random;
	unsigned int calls;
	unsigned long ends[ENDS];
};

static _Thread_local uint64_t state;
static struct vcpu *by_fd[CPUS];
static struct fake_vcpu known[CPUS];
static unsigned long total[ENDS];

static uint32_t below(uint32_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 20) % n;
}

static int interrupted(void)
{
	errno = EINTR;
	return -1;
}

static int out(struct kvm_run *run, uint16_t number, uint32_t value)
{
	struct fake_port port = {number, sizeof(value), 1, FAKE_PORT_DATA};

	fake_out(run, &port, value);
	return 0;
}

/* A guest that registers its entry, takes it back, answers calls, and sometimes does not. */
static int enter(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint32_t chance = below(1000);

	run->kvm_dirty_regs = 0;
	if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		return interrupted();
	run->exit_reason = KVM_EXIT_INTR;
	if (symcall_is_active(vcpu) && chance < 700)
		return out(run, SYMBIOTIC_PORT, chance < 600 ? SYMBIOTIC_RETURN : SYMBIOTIC_ERROR);
	if (symcall_is_active(vcpu) && chance < 702)
		run->exit_reason = KVM_EXIT_SHUTDOWN;
	else if (chance < 730)
		return out(run, HOOK, chance);
	else if (chance > 990)
		vcpu->symcall->entry.rip = chance > 991 ? 0x1000 : 0;
	else if (!symcall_is_active(vcpu))
		vcpu->symcall->disabled = false;
	return 0;
}

int fake_run(int fd)
{
	return enter(by_fd[fd]);
}

struct fake_vcpu *fake_vcpu_of(int fd, unsigned long request)
{
	(void)request;
	return &known[fd];
}

static void wrmsr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	const struct bus_range *range = bus_find(vcpu->buses[VCPU_MSR], index);
	struct bus_access access = {
	        .address = index, .length = 8, .is_write = 1, .value = value, .vcpu = vcpu};

	if (!range || range->handler(range->opaque, &access))
		abort();
}

static void boot(struct machine *machine, uint32_t index)
{
	struct vcpu *vcpu = machine->vcpus[index];
	uint64_t page = PAGES + (uint64_t)index * SYMBIOTIC_PAGE_SIZE;

	fake_long_mode(&vcpu->run->s.regs.sregs);
	wrmsr(vcpu, MSR_SYMBIOTIC_VCPU_PAGE, page);
	wrmsr(vcpu, MSR_SYMBIOTIC_RSP, 0x8000);
	wrmsr(vcpu, MSR_SYMBIOTIC_CS, 0x10);
	wrmsr(vcpu, MSR_SYMBIOTIC_PROMISES, below(2));
	wrmsr(vcpu, MSR_SYMBIOTIC_RIP, 0x1000);
	machine->ram[page + 8] = SYMBIOTIC_VCPU_ENABLED;
}

/* As a hook of Python's: sometimes with a call of its own. */
static void serve_hook(struct vcpu *vcpu, struct symcall_call *own)
{
	int event;

	if (symcall_is_active(vcpu) || below(2))
		return;
	symcall_message(own)->number = 1;
	event = symcall_continue(vcpu, own);
	while (event == VCPU_HOOK)
		event = symcall_continue(vcpu, own);
	if (event != VCPU_SYMCALL)
		symcall_abandon(vcpu, own, SYMCALL_STOPPED);
}

static void *run_vcpu(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct symcall_call *own = symcall_call_create();
	uint32_t requests = 0;

	state = (uintptr_t)vcpu | 1;
	vcpu_attach(vcpu);
	while (!(requests & VCPU_REQUEST_STOP)) {
		int event = vcpu_run(vcpu);

		if (event == VCPU_HOOK)
			serve_hook(vcpu, own);
		else if (event == VCPU_KICKED)
			requests = vcpu_take_requests(vcpu);
	}
	symcall_close(vcpu);
	vcpu_detach(vcpu);
	symcall_call_destroy(own);
	return NULL;
}

/* The different things that a thread may do after it asked for a call; how the call ended. */
static int see_to(struct vcpu *vcpu, struct symcall_call *call)
{
	uint32_t patience = below(8);

	if (!patience) {
		symcall_disown(vcpu, call);
		return DISOWNED;
	}
	while (!symcall_wait(vcpu, call, patience > 2 ? 100 : 0))
		if (patience == 1 && symcall_withdraw(vcpu, call)) {
			symcall_disown(vcpu, call);
			return WITHDRAWN;
		}
	patience = symcall_message(call)->status;
	if (below(2))
		symcall_disown(vcpu, call);
	else
		symcall_call_destroy(call);
	return (int)patience;
}

static void *post(void *opaque)
{
	struct poster *poster = opaque;
	struct machine *machine = poster->machine;

	state = poster->random;
	for (unsigned int i = 0; i < poster->calls; i++) {
		struct vcpu *vcpu = machine->vcpus[below(CPUS)];
		struct symcall_call *call = symcall_call_create();
		struct symcall_message *message = symcall_message(call);

		if (__atomic_load_n(&machine->stop, __ATOMIC_RELAXED)) {
			symcall_call_destroy(call);
			break;
		}
		message->number = i;
		message->given = below(64);
		message->wanted = below(64);
		symcall_post(vcpu, call);
		poster->ends[see_to(vcpu, call)]++;
	}
	return NULL;
}

static void build(struct machine *machine)
{
	struct symcall_setup setup = {.can_block_interrupts = 1};

	machine->ram = aligned_alloc(SYMBIOTIC_PAGE_SIZE, RAM);
	memset(machine->ram, 0, RAM);
	machine->memory = guest_memory_create();
	guest_memory_add(machine->memory, 0, RAM, machine->ram, 0);
	machine->pio = bus_create();
	machine->mmio = bus_create();
	machine->msr = bus_create();
	machine->hypercalls = bus_create();
	machine->symspy = symspy_create(machine->memory, CPUS);
	machine->watch = symcall_watch_create(8, CPUS);
	symspy_attach(machine->symspy, machine->msr);
	symcall_attach(machine->msr);
	doorbell_attach(machine->pio, machine->hypercalls);
	bus_add_hook(machine->pio, HOOK, 1, 1);
	for (uint32_t i = 0; i < CPUS; i++) {
		uint8_t *run = aligned_alloc(SYMBIOTIC_PAGE_SIZE, RUN);

		memset(run, 0, RUN);
		by_fd[i] = vcpu_create((int)i, i, (uintptr_t)run, RUN, machine->pio, machine->mmio,
		                       machine->msr);
		machine->vcpus[i] = by_fd[i];
		known[i] = (struct fake_vcpu){
		        .regs = &by_fd[i]->run->s.regs.regs,
		        .sregs = &by_fd[i]->run->s.regs.sregs,
		        .events = &by_fd[i]->run->s.regs.events,
		        .mp_state = KVM_MP_STATE_RUNNABLE,
		        .has_extras = true,
		};
		machine->symcalls[i] =
		        symcall_create(by_fd[i], machine->symspy, machine->watch, &setup);
		boot(machine, i);
	}
}

static void demolish(struct machine *machine)
{
	symcall_watch_destroy(machine->watch);
	for (uint32_t i = 0; i < CPUS; i++) {
		symcall_destroy(machine->symcalls[i]);
		free(machine->vcpus[i]->run);
		vcpu_destroy(machine->vcpus[i]);
	}
	symspy_destroy(machine->symspy);
	bus_destroy(machine->pio);
	bus_destroy(machine->mmio);
	bus_destroy(machine->msr);
	bus_destroy(machine->hypercalls);
	guest_memory_destroy(machine->memory);
	free(machine->ram);
}

static unsigned long live(uint64_t seed, bool stop_early)
{
	struct machine machine = {0};
	struct poster posters[POSTERS] = {0};
	pthread_t threads[CPUS];
	unsigned long made = 0;

	build(&machine);
	for (uint32_t i = 0; i < CPUS; i++)
		pthread_create(&threads[i], NULL, run_vcpu, machine.vcpus[i]);
	for (uint32_t i = 0; i < POSTERS; i++) {
		posters[i].machine = &machine;
		posters[i].random = (seed * POSTERS + i) * 0x9e3779b97f4a7c15 | 1;
		posters[i].calls = CALLS / POSTERS;
		pthread_create(&posters[i].thread, NULL, post, &posters[i]);
	}
	if (stop_early) {
		usleep(below(3000));
		for (uint32_t i = 0; i < CPUS; i++)
			vcpu_request(machine.vcpus[i], VCPU_REQUEST_STOP);
		usleep(below(300));
		__atomic_store_n(&machine.stop, true, __ATOMIC_RELAXED);
	}
	for (uint32_t i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	for (uint32_t i = 0; i < CPUS; i++) {
		vcpu_request(machine.vcpus[i], VCPU_REQUEST_STOP);
		pthread_join(threads[i], NULL);
	}
	for (uint32_t i = 0; i < POSTERS; i++)
		for (uint32_t end = 0; end < ENDS; end++) {
			total[end] += posters[i].ends[end];
			made += posters[i].ends[end];
		}
	demolish(&machine);
	return made;
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
	unsigned long made = 0;
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;

	if (!rounds || vcpu_setup_kick())
		return 2;
	state = seed * 0x9e3779b97f4a7c15 | 1;
	for (uint64_t lives = 0; made < rounds; lives++)
		made += live(seed + lives, lives & 1);
	for (uint32_t end = 0; end < ENDS; end++)
		printf("%lu ", total[end]);
	printf("\n");
	return 0;
}
