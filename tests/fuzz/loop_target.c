/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU loop with symcalls, replay, SymSpy and the swap map, under a KVM whose guest is the
 * input (kvm.h). Hooks answer, make symcalls and give them up; other threads post some, miss
 * deadlines and stop the vCPU, always at a moment of KVM_RUN, so that each run can be had again.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm.h"
#include "machine/vcpu.h"
#include "swap/bypass.h"
#include "symbiotic/doorbell.h"
#include "symbiotic/entry.h"
#include "symbiotic/local.h"
#include "symbiotic/overlay.h"
#include "symbiotic/probe.h"
#include "symbiotic/queue.h"
#include "symbiotic/symspy.h"
#include "symbiotic/watch.h"

enum {
	RAM = 64 << 10,
	APERTURE = 64 << 10,
	POSTED = 4,
	HOOK_PORT = 1,
	HOOK_MMIO = 2,
	HOOK_HYPERCALL = 3,
	HOOK_MSR = 4,
	HOOK_SWAP = 7,
	CONTINUED = 64, /* events that a hook's symcall may bring */
};

struct world {
	struct input input;
	struct kvm_world kvm;
	struct guest_memory *memory;
	struct bus *pio, *mmio, *msr, *hypercalls;
	struct symspy *symspy;
	struct symcall *symcall;
	struct swapbypass *bypass;
	struct vcpu *vcpu;
	struct symcall_call *local, *posted[POSTED];
};

static uint8_t *ram, *aperture;
static struct kvm_run *shared;
static const uint32_t shared_bytes = 3 * 4096;

/* The deadline's thread: its part is played by other_threads(). */

struct symcall_watch *symcall_watch_create(uint32_t milliseconds, uint32_t cpus)
{
	(void)milliseconds;
	(void)cpus;
	return NULL;
}

int symcall_watch_add(struct symcall_watch *watch, struct symcall_watched *watched)
{
	(void)watch;
	(void)watched;
	return 0;
}

void symcall_watch_begin(struct symcall_watch *watch)
{
	(void)watch;
}

/* The store: each second slot holds something. */

uint64_t swapstore_slots(const struct swapstore *store)
{
	(void)store;
	return APERTURE / SWAPSTORE_SLOT;
}

int swapstore_written(struct swapstore *store, uint64_t slot)
{
	return slot < swapstore_slots(store) && slot & 1;
}

/* Some inputs find that the disk holds data. */
static bool full;

int swapstore_take(struct swapstore *store)
{
	(void)store;
	return full ? -EBUSY : 0;
}

void swapstore_give(struct swapstore *store)
{
	(void)store;
}

int swapstore_discard(struct swapstore *store, uint64_t slot, uint64_t count)
{
	return slot && count && slot < swapstore_slots(store) &&
	                       count <= swapstore_slots(store) - slot
	               ? 0
		       : -EINVAL;
}

/* What other threads do. */

static void post(struct world *world, struct input *input)
{
	uint8_t how = input_8(input);
	struct symcall_call **call = &world->posted[how % POSTED];
	struct symcall_message *message;

	if (*call)
		return;
	*call = symcall_call_create();
	message = symcall_message(*call);
	message->number = how >> 4;
	message->given = message->wanted = how & 0x10 ? input_16(input) : 0;
	symcall_post(world->vcpu, *call);
}

/* Frees a call that is over, or takes it back: nothing may look at it from then on. */
static void collect(struct world *world, uint8_t how)
{
	struct symcall_call **call = &world->posted[how % POSTED];

	if (!*call)
		return;
	if (!symcall_wait(world->vcpu, *call, 0) &&
	    (!(how & 0x80) || !symcall_withdraw(world->vcpu, *call)))
		return;
	symcall_call_destroy(*call);
	*call = NULL;
}

/* A caller that was interrupted. */
static void disown(struct world *world, uint8_t how)
{
	struct symcall_call **call = &world->posted[how % POSTED];

	if (*call)
		symcall_disown(world->vcpu, *call);
	*call = NULL;
}

static void miss_deadline(struct world *world)
{
	__atomic_store_n(&world->symcall->watched.late, world->symcall->watched.sequence,
	                 __ATOMIC_RELEASE);
	vcpu_request(world->vcpu, VCPU_REQUEST_LATE);
}

static void other_threads(struct kvm_world *kvm)
{
	struct world *world = kvm->opaque;
	struct input *input = &world->input;

	switch (input_8(input) & 0x1f) {
	case 1:
	case 2:
		post(world, input);
		break;
	case 3:
		collect(world, input_8(input));
		break;
	case 4:
		miss_deadline(world);
		break;
	case 5:
		vcpu_request(world->vcpu, VCPU_REQUEST_PAUSE);
		break;
	case 6:
		vcpu_request(world->vcpu, VCPU_REQUEST_STOP);
		break;
	case 7:
		swapbypass_want(world->bypass, input_8(input) & 3);
		break;
	case 8:
		swapbypass_allow(world->bypass, input_8(input) & 1);
		break;
	case 9:
		swapbypass_ask(world->bypass,
		               input_8(input) & 1 ? (uint32_t)HOOK_SWAP : SWAPBYPASS_NO_HOOK);
		break;
	case 10:
		disown(world, input_8(input));
		break;
	default:
		break;
	}
}

/* Hooks. */

static void answer(struct world *world, int event)
{
	struct input *input = &world->input;
	struct vcpu *vcpu = world->vcpu;
	uint64_t results[5] = {1, 2, 3, 4, 5};
	uint8_t how = input_8(input);

	if (event == VCPU_HOOK) {
		vcpu->access.value = input_64(input);
		vcpu->access.refused = (how & 7) == 7;
	} else if (event == VCPU_HYPERCALL && vcpu->hook == HOOK_SWAP) {
		if (vcpu->hypercall[0] == SYMBIOTIC_SWAP_MOVE)
			swapmove_go_on(world->bypass, vcpu, how);
		else
			swapmap_go_on(world->bypass, vcpu, how & 1);
	} else if (event == VCPU_HYPERCALL && how & 1) {
		doorbell_answer(vcpu, 0, results, how >> 1 & 7);
	}
}

/* Serves an event of the loop: false for one that ends the run. */
static bool serve(struct world *world, int event)
{
	if (event == VCPU_HOOK || event == VCPU_HYPERCALL)
		answer(world, event);
	else if (event == VCPU_KICKED)
		vcpu_take_requests(world->vcpu);
	else
		return event == VCPU_DEBUG;
	return true;
}

/* A hook that calls, as often as not to the end. */
static void call(struct world *world)
{
	struct input *input = &world->input;
	struct vcpu *vcpu = world->vcpu;
	struct symcall_message *message = symcall_message(world->local);
	uint8_t how = input_8(input);
	int event;

	message->given = how & 1 ? input_16(input) : 0;
	message->wanted = how & 2 ? input_16(input) : 0;
	event = symcall_make(vcpu, world->local, how, 1, 2, 3, 4, 5);
	for (int i = 0; event != VCPU_SYMCALL && i < CONTINUED; i++) {
		if (!serve(world, event) || input_8(input) == 0xff)
			break;
		event = symcall_continue(vcpu, world->local);
	}
	if (event == VCPU_SYMCALL)
		return;
	symcall_abandon(vcpu, world->local, SYMCALL_STOPPED);
	symcall_call_destroy(world->local);
	world->local = symcall_call_create();
}

static bool turn(struct world *world)
{
	struct vcpu *vcpu = world->vcpu;
	int event = vcpu_run(vcpu);
	bool hook = event == VCPU_HOOK || event == VCPU_HYPERCALL;

	if (hook && !(input_8(&world->input) & 3))
		call(world);
	/* What is under way is given up when the loop is left. */
	if (!serve(world, event))
		return false;
	if (!symcall_is_active(vcpu) && (input_8(&world->input) & 0x1f) == 0x1f)
		vcpu_flush(vcpu);
	vcpu->held = (input_8(&world->input) & 0x1f) == 0x1f;
	return true;
}

/* The world. */

static uint8_t *guarded(size_t bytes)
{
	uint8_t *memory = aligned_alloc(4096, bytes);

	if (!memory)
		abort();
	memset(memory, 0, bytes);
	return memory;
}

static void build_memory(void)
{
	ram = guarded(RAM);
	aperture = guarded(APERTURE);
	shared = (struct kvm_run *)guarded(shared_bytes);
}

static void set_up_swap(struct world *world)
{
	struct symspy_swap swap = {
	        .mode = SYMBIOTIC_SWAP_SYMCALL,
	        .base = 1ULL << 32,
	        .size = APERTURE,
	        .serial = "swap",
	};

	world->bypass = swapbypass_create(world->symspy, world->memory, 1);
	swapbypass_attach(world->bypass, world->hypercalls);
	/* Not looked into: the functions above stand for it. */
	if (swapbypass_offer(world->bypass, (struct swapstore *)aperture, &swap))
		abort();
}

static void set_up_buses(struct world *world)
{
	symspy_attach(world->symspy, world->msr);
	symcall_attach(world->msr);
	doorbell_attach(world->pio, world->hypercalls);
	probe_attach(world->pio, 0x520);
	bus_add_hook(world->pio, 0x510, 2, HOOK_PORT);
	bus_add_hook(world->mmio, 0xd0000000, 8, HOOK_MMIO);
	bus_add_hook(world->hypercalls, 0x6000, 1, HOOK_HYPERCALL);
	bus_add_hook(world->msr, 0x53f, 1, HOOK_MSR);
}

static void set_up_vcpu(struct world *world)
{
	uint8_t how = input_8(&world->input);
	struct symcall_setup setup = {
	        .xsave_size = how & 1 ? 4096 : 0,
	        .can_block_interrupts = how >> 1 & 1,
	        .nested = how >> 2 & 1,
	        .svm = how >> 3 & 1,
	};

	full = how >> 7;

	world->vcpu = vcpu_create(-1, 0, (uintptr_t)shared, shared_bytes, world->pio, world->mmio,
	                          world->msr);
	world->symcall = symcall_create(world->vcpu, world->symspy, NULL, &setup);
	world->kvm = (struct kvm_world){&world->input, shared,        world->vcpu,   ram,
	                                RAM,           world->symspy, other_threads, world};
	kvm_begin(&world->kvm);
	if (!(how & 0x80))
		return;
	/* A guest that has registered already: the short way into what lies behind. */
	world->symcall->entry = (struct context_entry){.rip = 0x1000, .rsp = 0x8000, .cs = 0x10};
	world->symcall->entry.promises = how >> 6 & 1;
}

static void enable_calls(struct world *world)
{
	struct bus_access page = {
	        .address = MSR_SYMBIOTIC_VCPU_PAGE,
	        .value = 0x3000,
	        .length = 8,
	        .is_write = 1,
	        .vcpu = world->vcpu,
	};
	const struct bus_range *range = bus_find(world->msr, MSR_SYMBIOTIC_VCPU_PAGE);

	range->handler(range->opaque, &page);
	ram[0x3008] = SYMBIOTIC_VCPU_ENABLED;
}

static void set_up(struct world *world)
{
	if (!ram)
		build_memory();
	memset(ram, 0, RAM);
	memset(shared, 0, shared_bytes);
	for (uint32_t at = 0x4000; at < 0x8000; at += 8)
		memcpy(ram + at, &(uint64_t){0x5002}, 8);
	world->memory = guest_memory_create();
	guest_memory_add(world->memory, 0, RAM, ram, 0);
	guest_memory_add(world->memory, 1ULL << 32, APERTURE, aperture, GUEST_MEMORY_APERTURE);
	world->pio = bus_create();
	world->mmio = bus_create();
	world->msr = bus_create();
	world->hypercalls = bus_create();
	world->symspy = symspy_create(world->memory, 1);
	symspy_reserve(world->symspy, 0xe000, 0x1000);
	set_up_buses(world);
	set_up_swap(world);
	set_up_vcpu(world);
	if (world->symcall->entry.rip)
		enable_calls(world);
	world->local = symcall_call_create();
}

static void tear_down(struct world *world)
{
	symcall_close(world->vcpu);
	for (int i = 0; i < POSTED; i++) {
		/* Who waits was told. */
		if (world->posted[i] && !symcall_wait(world->vcpu, world->posted[i], 0))
			abort();
		symcall_call_destroy(world->posted[i]);
	}
	symcall_call_destroy(world->local);
	symcall_destroy(world->symcall);
	vcpu_destroy(world->vcpu);
	swapbypass_destroy(world->bypass);
	symspy_destroy(world->symspy);
	bus_destroy(world->pio);
	bus_destroy(world->mmio);
	bus_destroy(world->msr);
	bus_destroy(world->hypercalls);
	guest_memory_destroy(world->memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = {.input = {data, size}};

	set_up(&world);
	while (world.input.left && turn(&world))
		;
	tear_down(&world);
	return 0;
}
