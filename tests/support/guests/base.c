/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptor tables and traps of the 64-bit guests of the tests. */
#include "guest.h"

struct gate {
	u16 offset_low, selector;
	u8 ist, type;
	u16 offset_middle;
	u32 offset_high, reserved;
};

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, io_map;
} __attribute__((packed));

struct table {
	u16 limit;
	u64 base;
} __attribute__((packed));

u64 gdt[16];
u64 user_left_cr3; /* what CPL 3 ran with at its end */
static struct gate idt[256] __attribute__((aligned(16)));
static u64 gdt_copy[16];
static struct gate idt_copy[256] __attribute__((aligned(16)));
static struct tss tss __attribute__((aligned(16)));
static u64 ldt[4];
static void (*traps[256])(struct frame *);

enum {
	IST_SIZE = 8192,
	CODE64 = 0x9b,
	CODE32 = 0x9b,
	DATA = 0x93,
	USER = 0x60,
};

static u64 segment(u64 type, u64 size_bits)
{
	return type << 40 | size_bits << 52 | 0x000f00000000ffff;
}

static void system_segment(unsigned at, const void *base, u64 limit, u64 type)
{
	u64 address = (u64)base;

	gdt[at] = (address & 0xffffff) << 16 | (address & 0xff000000) << 32 | type << 40 | limit;
	gdt[at + 1] = address >> 32;
}

static void fill_gdt(void)
{
	gdt[2] = segment(CODE64, 0xa);
	gdt[3] = segment(DATA, 0xc);
	gdt[4] = segment(CODE32 | USER, 0xc);
	gdt[5] = segment(DATA | USER, 0xc);
	gdt[6] = segment(CODE64 | USER, 0xa);
	gdt[7] = segment(CODE64, 0xa);
	gdt[8] = segment(DATA, 0xc);
	gdt[9] = segment(DATA | USER, 0xc);
	system_segment(10, &tss, sizeof(tss) - 1, 0x89);
	ldt[1] = gdt[7];
	ldt[2] = gdt[8];
	system_segment(12, ldt, sizeof(ldt) - 1, 0x82);
	gdt[14] = segment(CODE32, 0xc);
	gdt[15] = segment(DATA, 0xc);
}

void copy_tables(void)
{
	for (unsigned i = 0; i < 16; i++)
		gdt_copy[i] = gdt[i];
	for (unsigned i = 0; i < 256; i++)
		idt_copy[i] = idt[i];
}

void load_tables(unsigned which)
{
	const struct table gdtr = {sizeof(gdt) - 1, (u64)(which ? gdt_copy : gdt)};
	const struct table idtr = {sizeof(idt) - 1, (u64)(which ? idt_copy : idt)};

	__asm__ volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr) : "memory");
}

static void load_segments(void)
{
	__asm__ volatile("ltr %w0" : : "r"(SELECTOR_TSS));
	__asm__ volatile("lldt %w0" : : "r"(SELECTOR_LDT));
}

void set_gate(unsigned vector, const void *handler, unsigned ist, unsigned dpl)
{
	u64 address = (u64)handler;
	struct gate gate = {
	        .offset_low = address,
	        .selector = SELECTOR_KERNEL_CODE,
	        .ist = ist,
	        .type = 0x8e | dpl << 5,
	        .offset_middle = address >> 16,
	        .offset_high = address >> 32,
	};

	idt[vector] = gate;
}

void set_trap(unsigned vector, void (*handler)(struct frame *))
{
	traps[vector] = handler;
}

/* The only fault that a guest may expect: #GP of try_wrmsr() and try_rdmsr(). */
static void on_gp(struct frame *frame)
{
	if (frame->rip == (u64)try_fault || frame->rip == (u64)try_fault_read)
		frame->rip = (u64)try_resume;
	else
		unexpected(frame);
}

/* How run_user() comes back. */
static void on_ud(struct frame *frame)
{
	if (frame->rip != (u64)user_leave || frame->cs != SELECTOR_USER_CODE) {
		unexpected(frame);
		return;
	}
	user_left_cr3 = read_cr3();
	frame->rip = (u64)user_end;
	frame->cs = SELECTOR_KERNEL_CODE;
	frame->ss = SELECTOR_KERNEL_DATA;
	frame->rsp = resume_stack;
	frame->rflags = 2;
}

void trap(struct frame *frame);
void trap(struct frame *frame)
{
	if (traps[frame->vector])
		traps[frame->vector](frame);
	else
		unexpected(frame);
}

static unsigned stack_of(unsigned vector)
{
	if (vector == VECTOR_NMI)
		return IST_NMI;
	if (vector == VECTOR_GP)
		return IST_PROTECTION;
	return vector < 32 ? IST_EXCEPTION : IST_INTERRUPT;
}

void begin(void);
void begin(void)
{
	for (unsigned i = 0; i < 7; i++)
		tss.ist[i] = (u64)ist_stacks + (i + 1) * IST_SIZE;
	tss.rsp[0] = (u64)main_stack_top;
	tss.io_map = sizeof(tss);
	fill_gdt();
	for (unsigned i = 0; i < 256; i++)
		set_gate(i, trap_stubs + i * 16, stack_of(i), 0);
	set_trap(VECTOR_UD, on_ud);
	set_trap(VECTOR_GP, on_gp);
	load_tables(0);
	load_segments();
	user_cr3 = read_cr3();
	guest();
}
