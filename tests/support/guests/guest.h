/* SPDX-License-Identifier: Apache-2.0 */
/* What the 64-bit guests of the tests have in common. */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "mix.h"
#include <symbiotic.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

enum {
	SELECTOR_KERNEL_CODE = 0x10,
	SELECTOR_KERNEL_DATA = 0x18,
	SELECTOR_USER_DATA = 0x2b,
	SELECTOR_USER_CODE = 0x33,
	SELECTOR_SYMCALL_CODE = 0x38,
	SELECTOR_OTHER_DATA = 0x4b,
	SELECTOR_TSS = 0x50,
	SELECTOR_LDT = 0x60,
	SELECTOR_CODE32 = 0x70,

	/* Interrupt stacks, a number each. */
	IST_INTERRUPT = 1,
	IST_NMI = 2,
	IST_EXCEPTION = 3,
	IST_PROTECTION = 4, /* #GP */

	VECTOR_NMI = 2,
	VECTOR_UD = 6,
	VECTOR_GP = 13,

	/* 4 bytes: what the guest has to say; in memory, because CPL 3 has no ports on every KVM.
	 */
	REPORT = 0xd0200000,

	MSR_EFER = 0xc0000080,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE = 0xc0000101,
	MSR_KERNEL_GS_BASE = 0xc0000102,
};

enum {
	/* Where the tests put the tables; the second ones lack the section .handler. */
	KERNEL_TABLES = 0x2000,
	USER_TABLES = 0x3000,
};

/* As the stubs leave it on the stack. */
struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* start.S */
extern u64 user_flags, user_cr3, resume_stack;
extern char trap_stubs[], user_leave[], user_end[], ist_stacks[], user_stack_top[],
        main_stack_top[];
extern char try_fault[], try_fault_read[], try_resume[], trap_return[];
void run_user(void (*function)(void));
u64 try_wrmsr(u32 index, u64 value);
u64 try_rdmsr(u32 index, u64 *value);

/* base.c */
void set_gate(unsigned vector, const void *handler, unsigned ist, unsigned dpl);
void set_trap(unsigned vector, void (*handler)(struct frame *));
/* The GDT and the IDT lie at a second place too: copies them there as they are, loads these or
 * those. */
void copy_tables(void);
void load_tables(unsigned which);
extern u64 gdt[16], user_left_cr3;

/* Of each guest: what it does, and what it does at a trap that nobody has set. */
void guest(void);
void unexpected(struct frame *frame);

static inline void report(u32 value)
{
	__asm__ volatile("movl %0, (%1)" : : "a"(value), "b"((u64)REPORT) : "memory");
}

static inline u64 read_msr(u32 index)
{
	u32 low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
	return (u64)high << 32 | low;
}

static inline void write_msr(u32 index, u64 value)
{
	__asm__ volatile("wrmsr"
	                 :
	                 : "c"(index), "a"((u32)value), "d"((u32)(value >> 32))
	                 : "memory");
}

#define READ_CR(name)                                                                              \
	static inline u64 read_##name(void)                                                        \
	{                                                                                          \
		u64 value;                                                                         \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                \
		return value;                                                                      \
	}                                                                                          \
	static inline void write_##name(u64 value)                                                 \
	{                                                                                          \
		__asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                    \
	}
READ_CR(cr0)
READ_CR(cr2)
READ_CR(cr3)
READ_CR(cr4)
READ_CR(cr8)

static inline void cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
	__asm__ volatile("cpuid"
	                 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
	                 : "a"(leaf), "c"(subleaf));
}

#endif
