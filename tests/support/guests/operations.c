/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of the integrity guest: the state in which each begins, and the one in which it ends.
 */
#include "checks.h"

enum {
	NOPS_KERNEL = 48,
	NOPS_USER = 4000,
	TURNS_KERNEL = 48,
	TURNS_USER = 100000,
	ELEMENTS = 9,
	ECHOES = 64, /* as in window.S */
};

struct registers expected;
u8 buffer[BUFFER] __attribute__((aligned(64)));
static u64 sequence;

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

const struct operation table[] = {
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

u8 wanted_buffer[BUFFER] __attribute__((aligned(64)));

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

void prepare(const struct operation *op)
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
