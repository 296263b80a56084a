/* SPDX-License-Identifier: Apache-2.0 */
/* System registers of the integrity guest: values for them, and whether they are still there. */
#include "checks.h"

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

u64 base_index[2];
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

/* What there is in the beginning stays. */
void start_system(void)
{
	take_system(system_wanted);
}

void check_system(void)
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

void set_system(void)
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
