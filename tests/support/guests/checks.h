/* SPDX-License-Identifier: Apache-2.0 */
/* What the integrity guest checks, part by part. Its symcall handler (upcall.c) does not use it. */
#ifndef TESTS_CHECKS_H
#define TESTS_CHECKS_H

#include "integrity.h"

enum {
	LAPIC_COMMAND = 0x300,
	COMMAND_SELF = 1 << 18,

	VECTOR_TIMER = 0x50,
	VECTOR_FIRST = 0x60, /* of those that the guest sends itself */
	VECTORS = 0x80,

	BUFFER = 256,
};

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

/* integrity.c */
extern u64 user_ports, random_state;
extern unsigned level; /* 0: CPL 0, 1: CPL 3 */

static inline u64 any(void)
{
	return mix(random_state++);
}

static inline u64 below(u64 limit)
{
	return any() % limit;
}

/* events.c */
extern volatile u64 interrupt_count, first_rip;
void lapic_write(u32 offset, u32 value);
void on_interrupt(struct frame *frame);
void on_nmi(struct frame *frame);
void storm(void);
void check_storm(void);
void start_timer(void);

/* vectors.c */
void compare_legacy(void);
void compare_upper(u64 what);
void enable_vectors(void);

/* operations.c */
extern const struct operation table[];
extern const u64 table_size;
extern struct registers expected;
extern u8 buffer[BUFFER], wanted_buffer[BUFFER];
extern char op_loop[], op_echo[];
void prepare(const struct operation *op);

/* system.c */
extern u64 base_index[2]; /* of the cookies that FS and GS point at */
void start_system(void);
void check_system(void);
void set_system(void);

#endif
