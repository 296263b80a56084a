/* SPDX-License-Identifier: Apache-2.0 */
#define FUZZ_HOST_ITSELF
#include "kvm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fake_kvm.h"
#include "host.h"
#include "machine/vcpu.h"
#include "symbiotic/symcall.h"
#include "symbiotic/symspy.h"

enum {
	PORT_DATA = 4096, /* where in the shared area the bytes of a port lie */
	PORT_BYTES = 4096,
	INSTRUCTION = 3, /* bytes */
	EFER_LMA = 1 << 10,
	CR0_PG = 1u << 31,
};

/* The vCPU as KVM has it. */
static struct {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct fake_vcpu known;
	bool open; /* an instruction is half done */
	/* That instruction, for a guest that executes it again. */
	uint64_t rip, rsp;
	uint32_t reason;
	uint8_t exit[256];
} state;

/* What the symcall under way interrupted. */
static struct {
	bool taken;
	uint64_t sequence;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
} before;

static struct kvm_world *world;

uint64_t kvm_some_number(struct input *input)
{
	static const uint64_t numbers[] = {
	        0,
	        1,
	        7,
	        0x10,
	        0x1000,
	        0x3000,
	        0x4000,
	        0x5000,
	        0x8000,
	        0x7fff,
	        0xf000,
	        0x10000,
	        ~0ULL,
	        0xffffffff80000000ULL,
	        0x7fffffff0000ULL,
	        1ULL << 32,
	        1ULL << 47,
	        1ULL << 63,
	};
	uint8_t how = input_8(input);

	if (how < 128)
		return numbers[how % (sizeof(numbers) / sizeof(numbers[0]))];
	return how < 224 ? input_16(input) : input_64(input);
}

void kvm_begin(struct kvm_world *new)
{
	world = new;
	memset(&state, 0, sizeof(state));
	memset(&before, 0, sizeof(before));
	state.known.regs = &state.regs;
	state.known.sregs = &state.sregs;
	state.known.events = &state.events;
	state.known.has_extras = true;
	fake_long_mode(&state.sregs);
}

/* Registers. */

static void take_registers(void)
{
	struct kvm_run *run = world->run;

	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		state.regs = run->s.regs.regs;
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS)
		state.sregs = run->s.regs.sregs;
	if (run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS)
		state.events = run->s.regs.events;
	run->kvm_dirty_regs = 0;
}

static void give_registers(void)
{
	struct kvm_run *run = world->run;

	if (run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		run->s.regs.regs = state.regs;
	if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		run->s.regs.sregs = state.sregs;
	if (run->kvm_valid_regs & KVM_SYNC_X86_EVENTS)
		run->s.regs.events = state.events;
}

/* Those that neither an instruction that was put aside changes, nor a C caller's results. */
static bool same_context(void)
{
	const struct kvm_regs *a = &state.regs, *b = &before.regs;

	return a->rsp == b->rsp && a->rbp == b->rbp && a->r8 == b->r8 && a->r9 == b->r9 &&
	       a->r10 == b->r10 && a->r11 == b->r11 && a->r12 == b->r12 && a->r13 == b->r13 &&
	       a->r14 == b->r14 && a->r15 == b->r15 && a->rflags == b->rflags &&
	       state.sregs.cr3 == before.sregs.cr3 && state.sregs.efer == before.sregs.efer &&
	       state.sregs.gs.base == before.sregs.gs.base &&
	       state.sregs.cs.selector == before.sregs.cs.selector;
}

/* At the door of KVM_RUN: a symcall has begun, or is over. */
static void follow_symcalls(const struct kvm_regs *regs, const struct kvm_sregs *sregs)
{
	uint64_t sequence = world->vcpu->symcall->watched.sequence;

	if (sequence == before.sequence)
		return;
	if (before.taken && !same_context() && !(sequence & 1))
		abort();
	if (!before.taken && (sequence & 1)) {
		before.regs = *regs;
		before.sregs = *sregs;
	}
	before.taken = sequence & 1;
	before.sequence = sequence;
}

/* The guest goes on: its registers become anything, in long mode most of the time. */
static void change_registers(struct input *input)
{
	uint64_t *words = (uint64_t *)&state.regs;
	uint8_t how = input_8(input);

	state.regs.rip = kvm_some_number(input);
	for (uint32_t i = 0; i < (how & 7u); i++) {
		uint8_t which = input_8(input);

		words[which % (sizeof(state.regs) / sizeof(*words))] = kvm_some_number(input);
	}
	if (how & 0x80)
		state.sregs.ss.dpl = how & 0x40 ? 3 : 0;
	if ((how & 0x38) == 0x38) {
		uint8_t odd = input_8(input);

		state.sregs.efer = odd & 1 ? 0 : EFER_LMA;
		state.sregs.cr0 = odd & 2 ? CR0_PG : CR0_PG | CR0_PE;
		state.sregs.cr4 = odd & 4 ? 1 << 12 : 0;
		state.events.nmi.masked = odd >> 3 & 1;
		state.events.interrupt.injected = odd >> 4 & 1;
		state.events.smi.smm = (odd & 0xe0) == 0xe0;
		state.events.nmi.injected = (odd & 0xe0) == 0x60;
	}
}

/* What the guest says to the doorbell, with registers that fit. */
static void ring(struct input *input, uint8_t *data)
{
	static const uint32_t bells[] = {
	        SYMBIOTIC_RETURN,      SYMBIOTIC_RETURN,
	        SYMBIOTIC_ERROR,       SYMBIOTIC_ECHO,
	        SYMBIOTIC_SWAP_ATTACH, SYMBIOTIC_SWAP_DETACH,
	        SYMBIOTIC_SWAP_MAP,    SYMBIOTIC_HYPERCALL_USER_FIRST,
	};
	uint8_t how = input_8(input);
	uint32_t bell = bells[how & 7];

	memcpy(data, &bell, sizeof(bell));
	if (how & 0x08) {
		state.regs.rbx = 1ULL << 32;
		state.regs.rcx = 64 << 10;
	} else if (how & 0x10) {
		state.regs.rbx = 0x7000;
		state.regs.rcx = how & 0x20 ? (how >> 5) & 7 : 0x4000 + 8 * (how >> 5);
		state.regs.rdx = how & 0x20 ? 0x5002 : 7;
		state.regs.rsi = 7 | (uint64_t)(how >> 6 & 1) << 63;
	}
}

/* Exits. */

static void make_port(struct input *input)
{
	static const uint16_t ports[] = {
	        SYMBIOTIC_PORT, SYMBIOTIC_PORT, SYMBIOTIC_PORT, 0x510, 0x510, 0x520, 0x3f8, 0x80,
	};
	struct kvm_run *run = world->run;
	uint8_t how = input_8(input);
	uint8_t *data = (uint8_t *)run + PORT_DATA;
	bool bell = ports[how & 7] == SYMBIOTIC_PORT && !(how & 0x80);

	run->io.port = ports[how & 7];
	run->io.size = bell ? 4 : 1 << (how >> 3) % 3;
	run->io.direction = how & 0x20 && !bell ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.data_offset = PORT_DATA;
	run->io.count = how & 0x40 ? 1 + input_16(input) % (PORT_BYTES / run->io.size) : 1;
	if (run->io.port == SYMBIOTIC_PORT)
		ring(input, data);
	else
		input_copy(input, data, 4);
}

static void make_mmio(struct input *input)
{
	struct kvm_run *run = world->run;
	uint8_t how = input_8(input);

	run->mmio.phys_addr = how & 1 ? kvm_some_number(input) : 0xd0000000 + (how >> 4);
	run->mmio.len = 1 + (how >> 1 & 7);
	run->mmio.is_write = how >> 7;
	input_copy(input, run->mmio.data, sizeof(run->mmio.data));
}

static void make_msr(struct input *input)
{
	struct kvm_run *run = world->run;
	uint8_t how = input_8(input);

	run->exit_reason = how & 0x80 ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR;
	run->msr.index = MSR_SYMBIOTIC_VM_PAGE + (how & 0x0f);
	run->msr.data = how & 0x10 ? kvm_some_number(input) : 0x1000;
	if (how & 0x20)
		run->msr.data = run->msr.index == MSR_SYMBIOTIC_CS ? 0x10 : run->msr.data;
}

static void make_odd(struct input *input)
{
	static const uint32_t odd[] = {
	        KVM_EXIT_HLT,  KVM_EXIT_SHUTDOWN,   KVM_EXIT_DEBUG,        KVM_EXIT_INTERNAL_ERROR,
	        KVM_EXIT_INTR, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_SYSTEM_EVENT, 77};
	uint8_t how = input_8(input);

	world->run->exit_reason = odd[how & 7];
	if (world->run->exit_reason == KVM_EXIT_SYSTEM_EVENT)
		world->run->system_event.type = 1 + (how >> 3 & 3);
	/* SVM: the vCPU was reset. */
	if (world->run->exit_reason == KVM_EXIT_SHUTDOWN && how & 0x80)
		memset(&state.sregs, 0, sizeof(state.sregs));
}

static uint8_t *exit_of(struct kvm_run *run)
{
	return (uint8_t *)run + offsetof(struct kvm_run, hw);
}

static void keep_instruction(void)
{
	state.open = true;
	state.rip = state.regs.rip;
	state.rsp = state.regs.rsp;
	state.reason = world->run->exit_reason;
	memcpy(state.exit, exit_of(world->run), sizeof(state.exit));
}

/* The guest executes the instruction again that it has at this place. */
static bool repeat(void)
{
	if (!state.reason || state.regs.rip != state.rip || state.regs.rsp != state.rsp)
		return false;
	world->run->exit_reason = state.reason;
	memcpy(exit_of(world->run), state.exit, sizeof(state.exit));
	state.open = true;
	return true;
}

/* What the guest does in its own pages. */
static void write_flags(struct input *input)
{
	uint64_t page = symspy_page(world->symspy, 0);
	uint32_t flags = input_8(input) & 7;

	if (page && page + 16 < world->ram_bytes)
		memcpy(world->ram + page + 8, &flags, sizeof(flags));
}

static void make_exit(struct input *input)
{
	uint8_t how = input_8(input);

	if (!(how & 0x80) && repeat())
		return;
	if (how & 0x40)
		change_registers(input);
	if (how & 0x20)
		write_flags(input);
	switch (how & 7) {
	case 0:
	case 1:
	case 2:
		world->run->exit_reason = KVM_EXIT_IO;
		make_port(input);
		keep_instruction();
		break;
	case 3:
	case 4:
		world->run->exit_reason = KVM_EXIT_MMIO;
		make_mmio(input);
		keep_instruction();
		break;
	case 5:
	case 6:
		make_msr(input);
		keep_instruction();
		break;
	default:
		make_odd(input);
		break;
	}
}

static int fail(int error)
{
	errno = error;
	return -1;
}

/* Completes the instruction: false where it has a further part. */
static bool complete(struct input *input)
{
	if (!state.open)
		return true;
	state.open = false;
	/* The doorbell's port is done before it exits. */
	state.regs.rip += INSTRUCTION;
	if (state.reason != KVM_EXIT_MMIO || (input_8(input) & 0x1f) != 0x1f)
		return true;
	state.regs.rip -= INSTRUCTION;
	world->run->exit_reason = KVM_EXIT_MMIO;
	make_mmio(input);
	keep_instruction();
	return false;
}

static bool is_shut(void)
{
	return __atomic_load_n(&world->run->immediate_exit, __ATOMIC_SEQ_CST);
}

/* 0 for an exit, or an errno. */
static int enter(struct input *input)
{
	if (!input->left)
		return ENXIO;
	if (!complete(input))
		return 0;
	if (is_shut())
		return EINTR;
	world->between(world);
	/* The signal may come before the guest is entered, or after its exit. */
	if (is_shut() && input_8(input) & 1)
		return EINTR;
	if (input_8(input) == 0xff)
		return input_8(input) & 1 ? EFAULT : EINVAL;
	make_exit(input);
	return 0;
}

static int run_vcpu(void)
{
	const struct kvm_regs regs = state.regs;
	const struct kvm_sregs sregs = state.sregs;
	int error;

	take_registers();
	follow_symcalls(&regs, &sregs);
	error = enter(world->input);
	give_registers();
	return error ? fail(error) : 0;
}

int fake_run(int fd)
{
	(void)fd;
	return run_vcpu();
}

struct fake_vcpu *fake_vcpu_of(int fd, unsigned long request)
{
	(void)fd;
	if (input_8(world->input) == 0xfe) {
		errno = EINVAL;
		return NULL;
	}
	if (request == KVM_GET_MP_STATE)
		state.known.mp_state =
		        input_8(world->input) & 1 ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
	else if (request == KVM_GET_NESTED_STATE)
		state.known.nested =
		        (input_8(world->input) & 7) == 7 ? KVM_STATE_NESTED_GUEST_MODE : 0;
	return &state.known;
}

int host_ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	int result;

	va_start(rest, request);
	result = fake_ioctl_with(fd, request, rest);
	va_end(rest);
	return result;
}

/* No time passes, and nobody comes while a thread waits. */

int host_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){0};
	return 0;
}

int host_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
	(void)cond;
	(void)lock;
	(void)until;
	return ETIMEDOUT;
}
