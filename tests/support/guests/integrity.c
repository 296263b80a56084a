/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that keeps all its state under check, at CPL 0 and CPL 3, while it is upcalled: known
 * values go into every register, an operation runs, and everything must be as the operation leaves
 * it.
 */
#include "integrity.h"

enum {
	LAPIC = 0xfee00000,
	LAPIC_EOI = 0xb0,
	LAPIC_SPURIOUS = 0xf0,
	LAPIC_COMMAND = 0x300,
	LAPIC_TIMER = 0x320,
	LAPIC_TIMER_COUNT = 0x380,
	LAPIC_TIMER_DIVIDE = 0x3e0,
	COMMAND_SELF = 1 << 18,
	COMMAND_SELF_NMI = 1 << 18 | 4 << 8,
	TIMER_PERIODIC = 1 << 17,

	VECTOR_TIMER = 0x50,
	VECTOR_FIRST = 0x60, /* of those that the guest sends itself */
	VECTORS = 0x80,
	STORM = 6,

	CR4_OSFXSR = 1 << 9,
	CR4_OSXMMEXCPT = 1 << 10,
	CR4_OSXSAVE = 1 << 18,
	CPUID_XSAVE = 1 << 26,
	XCR0_LEGACY = 3,
	XCR0_WANTED = 0xe7, /* x87, SSE, AVX, AVX-512 */

	NOPS_KERNEL = 48,
	NOPS_USER = 4000,
	TURNS_KERNEL = 48,
	TURNS_USER = 100000,
	WINDOWS = 3, /* between two checks of the system registers */
	BUFFER = 256,
	ELEMENTS = 9,
	ECHOES = 64,     /* as in window.S */
	LATE_EXITS = 16, /* too */
	OUT_LENGTH = 2,  /* of OUT 0x80, AL */
};

/* What the test says. */
volatile u64 echo_windows, loop_windows; /* more of them a round: at CPL 0, at CPL 3 */
volatile u64 seed, promise, isolate, stop, timer_count, kinds = ~0ULL, shadow_kept = 1;
volatile u64 cr8_left_alone;
u64 entry_bases[2]; /* FS, GS of symcalls */

/* What it finds. */
volatile u64 failure[4], windows[2], ticks, interrupts, nmi_sent, nmi_seen, in_nmi;
volatile u64 operations[64][2];
u64 upper_mask, user_ports = 1;
volatile u64 current; /* operation */

u64 cookies[2][64];
static u64 random_state, sequence;
static u8 buffer[BUFFER] __attribute__((aligned(64)));
static u8 upper_loaded;
static struct registers expected;
static unsigned level; /* 0: CPL 0, 1: CPL 3 */
static u64 base_index[2];

volatile u64 interrupt_log[16], interrupt_count, first_rip;

static u64 any(void)
{
	return mix(random_state++);
}

static u64 below(u64 limit)
{
	return any() % limit;
}

void fail(u64 what, u64 which, u64 wanted, u64 got)
{
	failure[0] = what;
	failure[1] = which;
	failure[2] = wanted;
	failure[3] = got;
	for (;;)
		report(REPORT_FAILED);
}

void unexpected(struct frame *frame)
{
	fail(FAILED_TRAP, frame->vector | frame->error << 8 | frame->cs << 32, frame->rip,
	     frame->rsp);
}

/* Interrupts. */

static void lapic_write(u32 offset, u32 value)
{
	__asm__ volatile("movl %0, (%1)" : : "a"(value), "b"((u64)LAPIC + offset) : "memory");
}

static void on_interrupt(struct frame *frame)
{
	if (!first_rip)
		first_rip = frame->rip;
	if (frame->vector == VECTOR_TIMER)
		ticks++;
	else if (interrupt_count < 16)
		interrupt_log[interrupt_count++] = frame->vector;
	interrupts++;
	lapic_write(LAPIC_EOI, 0);
}

void set_cr8(u64 value)
{
	if (!cr8_left_alone)
		write_cr8(value);
}

/* Unless one is on its way: one instruction asks and counts, as a symcall may come between two. */
void send_nmi(void)
{
	u64 seen = nmi_seen;

	if (__sync_bool_compare_and_swap(&nmi_sent, seen, seen + 1))
		lapic_write(LAPIC_COMMAND, COMMAND_SELF_NMI);
}

static void on_nmi(struct frame *frame)
{
	(void)frame;
	in_nmi = 1;
	nmi_seen++;
	for (unsigned i = below(100); i; i--)
		__asm__ volatile("pause");
	in_nmi = 0;
}

/* Vector registers. */

void random_vectors(u8 *image, unsigned size)
{
	static u64 state;
	u64 *words = (u64 *)image;

	/* A plain congruence: this is the most of what an emulated CPL 0 has to do. */
	state = mix(state);
	for (unsigned i = 0; i < size / 8; i++)
		words[i] = state = state * 0xd1342543de82ef95 + 1;
	/* Exceptions stay masked, and none is pending; the rest of the control words is free. */
	*(u16 *)image = 0x007f | (words[0] & 0x0f00);
	*(u16 *)(image + 2) = words[0] >> 16 & 0x7f7f & ~0x4080;
	*(u16 *)(image + 4) = words[0] >> 32 & 0xff;
	*(u16 *)(image + 6) = 0;
	words[1] = words[2] = 0; /* addresses of an exception that there was not */
	*(u32 *)(image + 24) = 0x1f80 | (words[3] & 0xe03f);
	if (size > 512) {
		words[64] = vectors_mask;
		for (unsigned i = 65; i < 72; i++)
			words[i] = 0;
	}
}

static void compare_bytes(u64 what, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i += 2)
		if (*(u16 *)(vectors_set + i) != *(u16 *)(vectors_got + i))
			fail(what, i, *(u16 *)(vectors_set + i), *(u16 *)(vectors_got + i));
}

static void compare_words(u64 what, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i += 8)
		if (*(u64 *)(vectors_set + i) != *(u64 *)(vectors_got + i))
			fail(what, i, *(u64 *)(vectors_set + i), *(u64 *)(vectors_got + i));
}

static void compare_legacy(void)
{
	compare_bytes(FAILED_VECTORS, 0, 6);
	compare_bytes(FAILED_VECTORS, 24, 28);
	for (unsigned i = 32; i < 160; i += 16) {
		compare_words(FAILED_VECTORS, i, i + 8);
		compare_bytes(FAILED_VECTORS, i + 8, i + 10);
	}
	compare_words(FAILED_VECTORS, 160, 416);
}

/* Where components 2 and up lie (CPUID leaf 0xd), asked once: CPUID always exits. */
static u32 component_offset[8], component_size[8];

static void compare_upper(u64 what)
{
	for (unsigned i = 2; i < 8; i++)
		compare_words(what, component_offset[i], component_offset[i] + component_size[i]);
}

static void enable_vectors(void)
{
	u32 id[4];

	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	cpuid(1, 0, id);
	if (!(id[2] & CPUID_XSAVE))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(0xd, 0, id);
	upper_mask = id[0] & XCR0_WANTED;
	__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)upper_mask), "d"(0));
	for (unsigned i = 2; i < 8; i++) {
		if (!(upper_mask >> i & 1))
			continue;
		cpuid(0xd, i, id);
		component_size[i] = id[0];
		component_offset[i] = id[1];
		if (id[0] + id[1] > sizeof(vectors_set))
			upper_mask &= ~(1ULL << i);
	}
}

/* Operations. */

enum kind {
	NOPS,
	IN,
	OUT,
	INS,
	OUTS,
	LOAD,
	STORE,
	MOVS_FROM,
	MOVS_TO,
	XCHG,
	PUSH,
	POP,
	LOAD16,
	STORE16,
	LOAD_CROSS,
	STORE_CROSS,
	LOOP,
	RDMSR,
	WRMSR,
	SS_OUT,
	STORM_OF_INTERRUPTS,
	SELF_NMI,
	SHADOW,
	SHADOW_OUT,
	SHADOW_IN,
	SHADOW_STORE,
	SHADOW_LOAD,
	HALT,
	ECHO,
};

enum {
	KERNEL = 1,
	USER = 2,
	PORTS = 4, /* CPL 3 may not on every KVM */
	REPEAT = 8,
};

struct operation {
	u8 kind, size, where;
	const char *code, *end;
};

/* clang-format off */
#define OP(name) extern char op_##name[];
#define SIZES(name) OP(name##1) OP(name##2) OP(name##4)
SIZES(in) SIZES(out) SIZES(ins) SIZES(outs) SIZES(rep_ins) SIZES(rep_outs) SIZES(load) SIZES(store)
SIZES(movs) SIZES(xchg) OP(load8) OP(store8) OP(movs8) OP(xchg8) OP(push8) OP(pop8) OP(load16)
OP(store16) OP(loop) OP(rdmsr) OP(wrmsr) OP(ss_out) OP(storm) OP(echo)
extern char shadow_nop[], shadow_out[], shadow_in[], shadow_store[], shadow_load[], shadow_halt[];
extern char shadow_nop_end[], shadow_out_end[], shadow_in_end[], shadow_store_end[];
extern char shadow_load_end[], shadow_halt_end[];

#define ROW(kind, name, size, where) {kind, size, where, op_##name##size, 0}
#define ROWS(kind, name, where)                                                                    \
	ROW(kind, name, 1, where), ROW(kind, name, 2, where), ROW(kind, name, 4, where)
#define BOTH (KERNEL | USER)

static const struct operation table[] = {
	{NOPS, 0, BOTH, window_end, 0},
	ROWS(IN, in, BOTH | PORTS),
	ROWS(OUT, out, BOTH | PORTS),
	ROWS(INS, ins, BOTH | PORTS),
	ROWS(OUTS, outs, BOTH | PORTS),
	ROWS(INS, rep_ins, BOTH | PORTS | REPEAT),
	ROWS(OUTS, rep_outs, BOTH | PORTS | REPEAT),
	ROWS(LOAD, load, BOTH), ROW(LOAD, load, 8, BOTH),
	ROWS(STORE, store, BOTH), ROW(STORE, store, 8, BOTH),
	ROWS(MOVS_FROM, movs, BOTH | REPEAT), ROW(MOVS_FROM, movs, 8, BOTH | REPEAT),
	ROWS(MOVS_TO, movs, BOTH | REPEAT), ROW(MOVS_TO, movs, 8, BOTH | REPEAT),
	ROWS(XCHG, xchg, BOTH), ROW(XCHG, xchg, 8, BOTH),
	ROW(PUSH, push, 8, BOTH),
	ROW(POP, pop, 8, BOTH),
	ROW(LOAD16, load, 16, BOTH),
	ROW(STORE16, store, 16, BOTH),
	ROW(LOAD_CROSS, load, 8, BOTH),
	ROW(STORE_CROSS, store, 8, BOTH),
	{LOOP, 0, BOTH, op_loop, 0},
	{RDMSR, 8, KERNEL, op_rdmsr, 0},
	{WRMSR, 8, KERNEL, op_wrmsr, 0},
	{SS_OUT, 1, KERNEL, op_ss_out, 0},
	{STORM_OF_INTERRUPTS, 0, KERNEL, op_storm, 0},
	{SELF_NMI, 0, KERNEL, window_end, 0},
	{SHADOW, 0, KERNEL, shadow_nop, shadow_nop_end},
	{SHADOW_OUT, 1, KERNEL, shadow_out, shadow_out_end},
	{SHADOW_IN, 1, KERNEL, shadow_in, shadow_in_end},
	{SHADOW_STORE, 1, KERNEL, shadow_store, shadow_store_end},
	{SHADOW_LOAD, 1, KERNEL, shadow_load, shadow_load_end},
	{HALT, 0, KERNEL, shadow_halt, shadow_halt_end},
	{ECHO, 0, KERNEL, op_echo, 0},
};
/* clang-format on */
const u64 table_size = sizeof(table) / sizeof(table[0]);

static u64 mask_of(unsigned size)
{
	return size == 8 ? ~0ULL : (1ULL << size * 8) - 1;
}

/* A register after a move of `size` bytes into it: 4 bytes clear the rest, fewer leave it. */
static u64 merged(u64 old, u64 value, unsigned size)
{
	return size >= 4 ? value : (old & ~mask_of(size)) | value;
}

static u64 value_at(u64 kind, u64 address, unsigned size)
{
	return device_value(&sequence, kind, address, size);
}

static s64 stride(unsigned size)
{
	return window_set.rflags & FLAG_DF ? -(s64)size : (s64)size;
}

/* The first address of a run of elements that lies within `room` bytes from `start`, either way. */
static u64 run_start(u64 start, unsigned size, unsigned count)
{
	return start + (window_set.rflags & FLAG_DF ? (count - 1) * size : 0);
}

static void fill_buffer(u64 at, u64 value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		((u8 *)at)[i] = value >> i * 8;
}

/* What a write sends, into a register. */
static void send(unsigned reg, u64 kind, u64 address, unsigned size)
{
	u64 value = value_at(kind | ACCESS_WRITE, address, size);
	u64 old = window_set.general[reg];

	window_set.general[reg] = (old & ~mask_of(size)) | value;
}

static void set(unsigned reg, u64 value)
{
	window_set.general[reg] = value;
}

static unsigned port_of(unsigned size)
{
	unsigned port = DEVICE_PORT + below(8) / size * size;

	set(RDX, (window_set.general[RDX] & ~0xffffULL) | port);
	return port;
}

static u64 address_of(unsigned size)
{
	u64 address = DEVICE_MMIO + below(0x1000 / size) * size;

	set(RBX, address);
	return address;
}

/* A run of elements through RSI or RDI and, repeated, RCX. */
static unsigned elements(const struct operation *op)
{
	unsigned count = op->where & REPEAT ? 1 + below(ELEMENTS) : 1;

	if (op->where & REPEAT)
		set(RCX, count);
	return count;
}

static void advance(unsigned reg, const struct operation *op, unsigned count)
{
	expected.general[reg] += count * stride(op->size);
	if (op->where & REPEAT)
		expected.general[RCX] = 0;
}

static u8 wanted_buffer[BUFFER] __attribute__((aligned(64)));

/* What reads put into the buffer; checked afterwards against `wanted_buffer`. */
static void receive_run(const struct operation *op, u64 kind, u64 from, s64 step, unsigned count)
{
	u64 at = run_start(64, op->size, count);

	set(RDI, (u64)buffer + at);
	for (unsigned i = 0; i < count; i++, at += stride(op->size), from += step)
		fill_buffer((u64)wanted_buffer + at, value_at(kind, from, op->size), op->size);
}

static void send_run(const struct operation *op, u64 kind, u64 to, s64 step, unsigned count)
{
	u64 at = run_start((u64)buffer + 64, op->size, count);

	set(RSI, at);
	for (unsigned i = 0; i < count; i++, at += stride(op->size), to += step)
		fill_buffer(at, value_at(kind | ACCESS_WRITE, to, op->size), op->size);
}

static void prepare_string(const struct operation *op)
{
	unsigned count = elements(op), port;
	u64 address;

	switch (op->kind) {
	case INS:
		port = port_of(op->size);
		receive_run(op, ACCESS_PORT, port, 0, count);
		break;
	case OUTS:
		port = port_of(op->size);
		send_run(op, ACCESS_PORT, port, 0, count);
		break;
	case MOVS_FROM:
		address = run_start(DEVICE_MMIO + 0x100 + below(16) * op->size, op->size, count);
		set(RSI, address);
		receive_run(op, ACCESS_MMIO, address, stride(op->size), count);
		break;
	default:
		address = run_start(DEVICE_MMIO + 0x100 + below(16) * op->size, op->size, count);
		set(RDI, address);
		send_run(op, ACCESS_MMIO, address, stride(op->size), count);
		break;
	}
	expected = window_set;
	if (op->kind != OUTS)
		advance(RDI, op, count);
	if (op->kind != INS)
		advance(RSI, op, count);
}

static void prepare_exchange(const struct operation *op)
{
	u64 address = address_of(op->size);
	u64 answer = value_at(ACCESS_MMIO, address, op->size);

	send(RAX, ACCESS_MMIO, address, op->size);
	expected = window_set;
	expected.general[RAX] = merged(window_set.general[RAX], answer, op->size);
}

static void prepare_stack(const struct operation *op)
{
	u64 address = DEVICE_MMIO + below(256) * 8;

	if (op->kind == PUSH) {
		send(RAX, ACCESS_MMIO, address, 8);
		set(RSP, address + 8);
		expected = window_set;
		expected.general[RSP] = address;
		return;
	}
	set(RSP, address);
	expected = window_set;
	expected.general[RSP] = address + 8;
	expected.general[RAX] = value_at(ACCESS_MMIO, address, 8);
}

static void prepare_wide(const struct operation *op)
{
	u64 address = DEVICE_MMIO + below(256) * 16;
	u64 *xmm5 = (u64 *)(vectors_set + 160 + 5 * 16);
	u64 kind = ACCESS_MMIO | (op->kind == STORE16 ? ACCESS_WRITE : 0);

	/* Into what is loaded for a store, into what is expected for a load: see check_window(). */
	xmm5 = op->kind == STORE16 ? xmm5 : (u64 *)wanted_buffer;
	xmm5[0] = value_at(kind, address, 8);
	xmm5[1] = value_at(kind, address + 8, 8);
	set(RBX, address);
	expected = window_set;
}

static void prepare_crossing(const struct operation *op)
{
	const u64 border = DEVICE_MMIO + 0x1000;
	unsigned first = 1 + below(7), second = 8 - first;
	u64 kind = ACCESS_MMIO | (op->kind == STORE_CROSS ? ACCESS_WRITE : 0);
	u64 value = value_at(kind, border - first, first);

	window_set.rflags &= ~FLAG_AC;
	value |= value_at(kind, border, second) << first * 8;
	set(RBX, border - first);
	if (op->kind == STORE_CROSS)
		set(RAX, value);
	expected = window_set;
	expected.general[RAX] = value;
}

static void prepare_msr(const struct operation *op)
{
	u64 value = value_at(ACCESS_MSR | (op->kind == WRMSR ? ACCESS_WRITE : 0), DEVICE_MSR, 8);

	set(RCX, DEVICE_MSR);
	if (op->kind == WRMSR) {
		set(RAX, (u32)value);
		set(RDX, value >> 32);
	}
	expected = window_set;
	expected.general[RAX] = (u32)value;
	expected.general[RDX] = value >> 32;
}

u64 sent[VECTORS / 64];

static void storm(void)
{
	interrupt_count = sent[0] = sent[1] = 0;
	for (unsigned i = 1 + below(STORM); i; i--) {
		unsigned vector = below(VECTORS);

		if (sent[vector / 64] >> vector % 64 & 1)
			continue;
		sent[vector / 64] |= 1ULL << vector % 64;
		lapic_write(LAPIC_COMMAND, COMMAND_SELF | (VECTOR_FIRST + vector));
	}
}

/* All that were sent came, once each, the highest first. */
static void check_storm(void)
{
	u64 at = 0;

	for (int vector = VECTORS - 1; vector >= 0; vector--) {
		if (!(sent[vector / 64] >> vector % 64 & 1))
			continue;
		if (at >= interrupt_count || interrupt_log[at] != (u64)(VECTOR_FIRST + vector))
			fail(FAILED_INTERRUPTS, at, VECTOR_FIRST + vector, interrupt_log[at]);
		at++;
	}
	if (at != interrupt_count)
		fail(FAILED_INTERRUPTS, 100, at, interrupt_count);
}

static void prepare_shadow(const struct operation *op)
{
	u64 where;

	window_set.rflags &= ~FLAG_IF;
	first_rip = interrupt_count = 0;
	if (op->kind != HALT)
		lapic_write(LAPIC_COMMAND, COMMAND_SELF | VECTOR_FIRST);
	switch (op->kind) {
	case SHADOW_OUT:
		send(RAX, ACCESS_PORT, port_of(1), 1);
		break;
	case SHADOW_STORE:
		where = address_of(1);
		send(RAX, ACCESS_MMIO, where, 1);
		break;
	case SHADOW_IN:
		where = port_of(1);
		expected = window_set;
		expected.general[RAX] =
		        merged(window_set.general[RAX], value_at(ACCESS_PORT, where, 1), 1);
		return;
	case SHADOW_LOAD:
		where = address_of(1);
		expected = window_set;
		expected.general[RAX] =
		        merged(window_set.general[RAX], value_at(ACCESS_MMIO, where, 1), 1);
		return;
	}
	expected = window_set;
}

static void prepare_echo(void)
{
	static const u8 results[] = {RBX, RCX, RDX, RSI, RDI};

	expected = window_set;
	expected.general[RAX] = 0;
	for (unsigned i = 0; i < sizeof(results); i++)
		expected.general[results[i]] += ECHOES;
}

static void prepare_simple(const struct operation *op)
{
	u64 kind =
	        op->kind == IN || op->kind == OUT || op->kind == SS_OUT ? ACCESS_PORT : ACCESS_MMIO;
	u64 where = kind == ACCESS_PORT ? port_of(op->size) : address_of(op->size);

	if (op->kind == SS_OUT)
		set(R15, SELECTOR_KERNEL_DATA);
	if (op->kind == OUT || op->kind == STORE || op->kind == SS_OUT) {
		send(RAX, kind, where, op->size);
		expected = window_set;
		return;
	}
	expected = window_set;
	expected.general[RAX] =
	        merged(window_set.general[RAX], value_at(kind, where, op->size), op->size);
}

static void prepare(const struct operation *op)
{
	window_op = (u64)op->code;
	switch (op->kind) {
	case INS:
	case OUTS:
	case MOVS_FROM:
	case MOVS_TO:
		prepare_string(op);
		break;
	case XCHG:
		prepare_exchange(op);
		break;
	case PUSH:
	case POP:
		prepare_stack(op);
		break;
	case LOAD16:
	case STORE16:
		prepare_wide(op);
		break;
	case LOAD_CROSS:
	case STORE_CROSS:
		prepare_crossing(op);
		break;
	case RDMSR:
	case WRMSR:
		prepare_msr(op);
		break;
	case IN:
	case OUT:
	case LOAD:
	case STORE:
	case SS_OUT:
		prepare_simple(op);
		break;
	case SHADOW:
	case SHADOW_OUT:
	case SHADOW_IN:
	case SHADOW_STORE:
	case SHADOW_LOAD:
	case HALT:
		prepare_shadow(op);
		break;
	case ECHO:
		prepare_echo();
		break;
	case LOOP:
		set(RCX, 1 + below(level ? TURNS_USER : TURNS_KERNEL));
		expected = window_set;
		expected.general[RCX] = 0;
		break;
	default:
		if (op->code == window_end)
			window_op -= level ? NOPS_USER : NOPS_KERNEL;
		expected = window_set;
		break;
	}
}

static void check_general(void)
{
	u64 mask = CF_TO_SF | FLAG_DF | FLAG_OF | FLAG_AC | FLAG_ID | (level ? 0 : FLAG_IF);

	/* A KVM that gives CPL 3 no ports has its own idea of IOPL, and loses it at IRET. */
	if (!level && user_ports)
		mask |= FLAG_IOPL;

	for (unsigned i = 0; i < GENERAL; i++)
		if (window_got.general[i] != expected.general[i])
			fail(FAILED_GENERAL, i, expected.general[i], window_got.general[i]);
	if ((window_got.rflags ^ expected.rflags) & mask)
		fail(FAILED_GENERAL, GENERAL, expected.rflags, window_got.rflags);
}

static void check_buffer(const struct operation *op)
{
	if (op->kind != INS && op->kind != MOVS_FROM)
		return;
	for (unsigned i = 0; i < BUFFER; i += 8)
		if (*(u64 *)(buffer + i) != *(u64 *)(wanted_buffer + i))
			fail(FAILED_BUFFER, i, *(u64 *)(wanted_buffer + i), *(u64 *)(buffer + i));
}

/* A software KVM may look for interrupts only at the next exit, or after an NMI, called into or
 * not, at one some exits later. */
static int came_late(const struct operation *op)
{
	u64 exits = (first_rip - (u64)op->end) / OUT_LENGTH;

	return !user_ports && op->kind < HALT && exits <= LATE_EXITS &&
	       first_rip == (u64)op->end + exits * OUT_LENGTH;
}

static void check_window(const struct operation *op)
{
	u64 *xmm5 = (u64 *)(vectors_set + 160 + 5 * 16);

	check_general();
	check_buffer(op);
	if (op->kind == LOAD16) {
		xmm5[0] = ((u64 *)wanted_buffer)[0];
		xmm5[1] = ((u64 *)wanted_buffer)[1];
	}
	compare_legacy();
	if (level && upper_mask)
		compare_upper(FAILED_VECTORS);
	if (op->end && shadow_kept && first_rip != (u64)op->end && !came_late(op))
		fail(FAILED_SHADOW, op->kind, (u64)op->end, first_rip);
	if (op->kind == STORM_OF_INTERRUPTS)
		check_storm();
	else if (op->kind >= SHADOW && op->kind < HALT && interrupt_count != 1)
		fail(FAILED_INTERRUPTS, op->kind, 1, interrupt_count);
}

/* One after the other, so that a short run covers all. */
static const struct operation *choose(void)
{
	static unsigned next[2];
	const struct operation *op;

	do
		op = table + next[level]++ % table_size;
	while (!(op->where & (level ? USER : KERNEL)) || !(kinds >> op->kind & 1) ||
	       (level && op->where & PORTS && !user_ports));
	return op;
}

static void fill_window(void)
{
	u64 flags = CF_TO_SF | FLAG_DF | FLAG_OF | FLAG_AC | FLAG_ID | FLAG_IOPL;

	for (unsigned i = 0; i < GENERAL; i++)
		window_set.general[i] = any();
	window_set.rflags = (any() & flags) | 2;
	random_vectors(vectors_set, level && upper_mask ? sizeof(vectors_set) : 512);
	for (unsigned i = 0; i < BUFFER; i += 8)
		*(u64 *)(buffer + i) = *(u64 *)(wanted_buffer + i) = window_set.general[0];
}

static void one_window(const struct operation *op)
{
	current = op->kind;
	prepare(op);
	window();
	check_window(op);
	operations[op->kind][level]++;
	windows[level]++;
}

/* The bases as a load sees them, at CPL 3 the only way that every KVM has. */
static void check_bases(void)
{
	u64 fs, gs;

	__asm__ volatile("movq %%fs:0, %0; movq %%gs:0, %1" : "=r"(fs), "=r"(gs));
	if (fs != cookies[0][base_index[0]])
		fail(FAILED_BASE, 0, cookies[0][base_index[0]], fs);
	if (gs != cookies[1][base_index[1]])
		fail(FAILED_BASE, 1, cookies[1][base_index[1]], gs);
}

static void user_window(const struct operation *op)
{
	fill_window();
	one_window(op);
	check_bases();
}

static void user_windows(void)
{
	static const struct operation loop = {LOOP, 0, USER, op_loop, 0};

	level = 1;
	vectors_mask = upper_mask;
	if (upper_mask && upper_loaded) {
		__asm__ volatile("xsave64 %0" : "=m"(vectors_got) : "a"((u32)upper_mask), "d"(0));
		compare_upper(FAILED_UPPER);
	}
	for (unsigned i = 0; i < WINDOWS; i++)
		user_window(choose());
	for (unsigned i = 0; i < loop_windows; i++)
		user_window(&loop);
	upper_loaded = 1;
}

static void kernel_window(const struct operation *op)
{
	fill_window();
	if (any() & 1)
		window_set.rflags |= FLAG_IF;
	if (op->kind == STORM_OF_INTERRUPTS) {
		window_set.rflags |= FLAG_IF;
		storm();
	} else if (op->kind == SELF_NMI) {
		send_nmi();
	}
	one_window(op);
	check_bases();
}

static void kernel_windows(void)
{
	static const struct operation echo = {ECHO, 0, KERNEL, op_echo, 0};

	level = 0;
	vectors_mask = 0;
	for (unsigned i = 0; i < WINDOWS; i++)
		kernel_window(choose());
	for (unsigned i = 0; i < echo_windows; i++)
		kernel_window(&echo);
}

/* The system registers. */

enum {
	SYSTEM_KERNEL_GS,
	SYSTEM_FS_BASE,
	SYSTEM_GS_BASE,
	SYSTEM_CR2,
	SYSTEM_CR3,
	SYSTEM_CR0,
	SYSTEM_CR4,
	SYSTEM_CR8,
	SYSTEM_EFER,
	SYSTEM_DS,
	SYSTEM_ES,
	SYSTEM_FS,
	SYSTEM_GS,
	SYSTEM_SS,
	SYSTEM_CS,
	SYSTEM_TASK,
	SYSTEM_LDT,
	SYSTEM_GDT,
	SYSTEM_GDT_LIMIT,
	SYSTEM_IDT,
	SYSTEM_IDT_LIMIT,
	SYSTEM,
};

static u64 system_wanted[SYSTEM];

struct table_register {
	u16 limit;
	u64 base;
} __attribute__((packed));

#define READ_SEGMENT(name)                                                                         \
	static u64 read_##name(void)                                                               \
	{                                                                                          \
		u64 value;                                                                         \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(value));                             \
		return value;                                                                      \
	}
READ_SEGMENT(ds)
READ_SEGMENT(es)
READ_SEGMENT(fs)
READ_SEGMENT(gs)
READ_SEGMENT(ss)
READ_SEGMENT(cs)

static u64 read_task(void)
{
	u64 value = 0;

	__asm__ volatile("str %w0" : "+r"(value));
	return value;
}

static u64 read_ldt(void)
{
	u64 value = 0;

	__asm__ volatile("sldt %w0" : "+r"(value));
	return value;
}

static void take_tables(u64 *now)
{
	struct table_register gdtr, idtr;

	__asm__ volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
	now[SYSTEM_GDT] = gdtr.base;
	now[SYSTEM_GDT_LIMIT] = gdtr.limit;
	now[SYSTEM_IDT] = idtr.base;
	now[SYSTEM_IDT_LIMIT] = idtr.limit;
}

static void take_system(u64 *now)
{
	now[SYSTEM_KERNEL_GS] = read_msr(MSR_KERNEL_GS_BASE);
	now[SYSTEM_FS_BASE] = read_msr(MSR_FS_BASE);
	now[SYSTEM_GS_BASE] = read_msr(MSR_GS_BASE);
	now[SYSTEM_EFER] = read_msr(MSR_EFER);
	now[SYSTEM_CR2] = read_cr2();
	now[SYSTEM_CR3] = read_cr3();
	now[SYSTEM_CR0] = read_cr0();
	now[SYSTEM_CR4] = read_cr4();
	now[SYSTEM_CR8] = read_cr8();
	now[SYSTEM_DS] = read_ds();
	now[SYSTEM_ES] = read_es();
	now[SYSTEM_FS] = read_fs();
	now[SYSTEM_GS] = read_gs();
	now[SYSTEM_SS] = read_ss();
	now[SYSTEM_CS] = read_cs();
	now[SYSTEM_TASK] = read_task();
	now[SYSTEM_LDT] = read_ldt();
	take_tables(now);
}

static void check_system(void)
{
	u64 now[SYSTEM];

	take_system(now);
	for (unsigned i = 0; i < SYSTEM; i++)
		if (now[i] != system_wanted[i])
			fail(FAILED_SYSTEM, i | level << 8, system_wanted[i], now[i]);
}

static void set_base(unsigned which, u32 msr)
{
	u64 index = below(64);

	base_index[which] = index;
	system_wanted[SYSTEM_FS_BASE + which] = (u64)&cookies[which][index];
	write_msr(msr, (u64)&cookies[which][index]);
}

static void set_system(void)
{
	static const u16 selectors[] = {0, SELECTOR_USER_DATA, SELECTOR_OTHER_DATA, 0};
	u64 *wanted = system_wanted;

	for (unsigned i = SYSTEM_DS; i <= SYSTEM_GS; i++)
		wanted[i] = selectors[below(4)];
	__asm__ volatile("mov %0, %%ds" : : "r"((u32)wanted[SYSTEM_DS]));
	__asm__ volatile("mov %0, %%es" : : "r"((u32)wanted[SYSTEM_ES]));
	__asm__ volatile("mov %0, %%fs" : : "r"((u32)wanted[SYSTEM_FS]));
	__asm__ volatile("mov %0, %%gs" : : "r"((u32)wanted[SYSTEM_GS]));
	set_base(0, MSR_FS_BASE);
	set_base(1, MSR_GS_BASE);
	wanted[SYSTEM_KERNEL_GS] = any() >> 20;
	write_msr(MSR_KERNEL_GS_BASE, wanted[SYSTEM_KERNEL_GS]);
	wanted[SYSTEM_CR2] = any();
	write_cr2(wanted[SYSTEM_CR2]);
	wanted[SYSTEM_CR4] ^= any() & CR4_DE;
	write_cr4(wanted[SYSTEM_CR4]);
	/* Below the class of the timer's vector, the lowest. */
	set_cr8(below(VECTOR_TIMER >> 4));
	wanted[SYSTEM_CR8] = read_cr8();
	load_tables(any() & 1);
	take_tables(wanted);
}

static void user_round(void)
{
	u64 stormy = !below(4);

	user_flags = FLAG_IOPL | 2 | (any() & FLAG_IF);
	if (stormy) {
		storm();
		user_flags |= FLAG_IF;
	}
	run_user(user_windows);
	level = 1;
	if (user_left_cr3 != user_cr3)
		fail(FAILED_CR3, 0, user_cr3, user_left_cr3);
	if (stormy)
		check_storm();
}

/* Beginning and end. */

extern char port_try[], port_tried[];

static void try_port(void)
{
	__asm__ volatile(".globl port_try, port_tried\n"
	                 "port_try: outb %%al, $0x80\n"
	                 "port_tried:"
	                 :
	                 : "a"(0));
}

static void on_protection(struct frame *frame)
{
	if (frame->rip == (u64)port_try) {
		user_ports = 0;
		frame->rip = (u64)port_tried;
	} else if (frame->rip == (u64)excursion_leave) {
		frame->rip = (u64)excursion_end;
		frame->cs = SELECTOR_SYMCALL_CODE;
		frame->ss = SELECTOR_SYMCALL_CODE + 8;
		frame->rsp = excursion_stack;
		frame->rflags = 2;
	} else {
		unexpected(frame);
	}
}

extern u8 vcpu_page[4096], vm_page[4096];
extern u64 handler_random;

static void register_symcalls(void)
{
	entry_bases[0] = isolate ? (u64)cookies[0] : 0;
	entry_bases[1] = (u64)cookies[1];
	handler_random = seed ^ 0x5555;
	write_msr(MSR_SYMBIOTIC_VM_PAGE, (u64)vm_page);
	write_msr(MSR_SYMBIOTIC_VCPU_PAGE, (u64)vcpu_page);
	write_msr(MSR_SYMBIOTIC_RSP, (u64)handler_stack_top);
	write_msr(MSR_SYMBIOTIC_CS, SELECTOR_SYMCALL_CODE);
	write_msr(MSR_SYMBIOTIC_GS_BASE, entry_bases[1]);
	write_msr(MSR_SYMBIOTIC_FS_BASE, entry_bases[0]);
	write_msr(MSR_SYMBIOTIC_CR3_CLEAR, isolate ? USER_TABLES ^ KERNEL_TABLES : 0);
	write_msr(MSR_SYMBIOTIC_PROMISES, promise);
	write_msr(MSR_SYMBIOTIC_RIP, (u64)symcall_entry);
	*(volatile u32 *)(vcpu_page + SYMBIOTIC_FLAGS_OFFSET) |= SYMBIOTIC_VCPU_ENABLED;
}

/* After a call that missed its deadline, which is how one ends that is still inside. */
static void register_anew(void)
{
	inside = spinning = 0;
	write_msr(MSR_SYMBIOTIC_RIP, (u64)symcall_entry);
}

static void start_timer(void)
{
	lapic_write(LAPIC_SPURIOUS, 0x1ff);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER, VECTOR_TIMER | TIMER_PERIODIC);
	lapic_write(LAPIC_TIMER_COUNT, timer_count);
}

static void set_up(void)
{
	random_state = seed;
	for (unsigned i = 0; i < 64; i++) {
		cookies[0][i] = mix(i);
		cookies[1][i] = mix(i + 1000);
	}
	for (unsigned i = VECTOR_TIMER; i < VECTOR_FIRST + VECTORS; i++)
		set_trap(i, on_interrupt);
	set_trap(VECTOR_NMI, on_nmi);
	set_trap(VECTOR_GP, on_protection);
	write_cr0(read_cr0() | CR0_AM);
	enable_vectors();
	run_user(try_port);
	if (isolate)
		user_cr3 = USER_TABLES;
	start_timer();
	copy_tables();
	take_system(system_wanted);
	set_system();
}

static void round(void)
{
	if (spinning)
		register_anew();
	for (unsigned i = 0; i < 2; i++) {
		kernel_windows();
		check_system();
	}
	user_round();
	check_system();
	set_system();
}

void guest(void)
{
	set_up();
	register_symcalls();
	report(REPORT_READY);
	while (!stop)
		round();
	for (unsigned i = 0; i < 100 && nmi_sent != nmi_seen; i++)
		__asm__ volatile("outb %%al, $0x80" : : "a"(0));
	if (nmi_sent != nmi_seen)
		fail(FAILED_NMI, 0, nmi_sent, nmi_seen);
	for (;;)
		report(REPORT_ENDED);
}
