/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts and NMIs of the integrity guest: those that it sends itself, and its timer's. */
#include "checks.h"

enum {
	LAPIC = 0xfee00000,
	LAPIC_EOI = 0xb0,
	LAPIC_SPURIOUS = 0xf0,
	LAPIC_TIMER = 0x320,
	LAPIC_TIMER_COUNT = 0x380,
	LAPIC_TIMER_DIVIDE = 0x3e0,
	COMMAND_SELF_NMI = 1 << 18 | 4 << 8,
	TIMER_PERIODIC = 1 << 17,

	STORM = 6,
};

/* What the test says. */
volatile u64 timer_count, cr8_left_alone;

/* What it finds. */
volatile u64 ticks, interrupts, nmi_sent, nmi_seen, in_nmi;

volatile u64 interrupt_log[16], interrupt_count, first_rip;

void lapic_write(u32 offset, u32 value)
{
	__asm__ volatile("movl %0, (%1)" : : "a"(value), "b"((u64)LAPIC + offset) : "memory");
}

void on_interrupt(struct frame *frame)
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

void on_nmi(struct frame *frame)
{
	(void)frame;
	in_nmi = 1;
	nmi_seen++;
	for (unsigned i = below(100); i; i--)
		__asm__ volatile("pause");
	in_nmi = 0;
}

u64 sent[VECTORS / 64];

void storm(void)
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
void check_storm(void)
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

void start_timer(void)
{
	lapic_write(LAPIC_SPURIOUS, 0x1ff);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER, VECTOR_TIMER | TIMER_PERIODIC);
	lapic_write(LAPIC_TIMER_COUNT, timer_count);
}
