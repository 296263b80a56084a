/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does what the test says, through a mailbox in its memory, and counts turns in
 * between. Its symcall handler breaks the rules of the interface, one for each number.
 */
#include "guest.h"

enum {
	MAIL_WRMSR = 1, /* index, value; answer 1 for #GP */
	MAIL_RDMSR,     /* index; answer as above, value in result[0] */
	MAIL_DOORBELL,  /* EAX, RBX RCX RDX RSI RDI; afterwards in result[] */
	MAIL_OUT8,      /* port, value */
	MAIL_OUT16,
	MAIL_IN32, /* port; result[0] */
	MAIL_CPUID,
	MAIL_USER,          /* stays at CPL 3 until `leave` */
	MAIL_USER_DOORBELL, /* as DOORBELL, at CPL 3; answer 1 if that raised #GP */
	MAIL_HALT,          /* until an interrupt; answer: how many came */
	MAIL_REGISTER,
	MAIL_LOAD,  /* address; result[0] */
	MAIL_STORE, /* address, value */

	ERRNO_ENOSYS = 38,
};

struct mail {
	volatile u64 command, argument[6], answer, result[6];
};

struct mail mail;
volatile u64 turns[3], leave, wakes, spins, trapped, trapped_rip, race;
u64 saved_registers[6];
u8 vm_page[4096] __attribute__((aligned(4096)));
u8 vcpu_page[4096] __attribute__((aligned(4096)));
u8 other_page[4096] __attribute__((aligned(4096)));

/* remote.S */
extern char symcall_entry[], symcall_stack_top[], second_stack_top[];
extern char user_doorbell[], user_doorbell_end[], fault[], fault_end[];
void doorbell(void);
void user_doorbell_go(void);
extern volatile u64 doorbell_registers[6];
__attribute__((noreturn)) void symcall_fail(u64 code);

/* In a handler every fault that is not expected ends the symcall with an error that names it. */
void unexpected(struct frame *frame)
{
	trapped = frame->vector;
	trapped_rip = frame->rip;
	if (frame->rip == (u64)fault)
		frame->rip = (u64)fault_end;
	else
		symcall_fail(1000 + frame->vector);
}

static void on_protection(struct frame *frame)
{
	if (frame->rip == (u64)try_fault || frame->rip == (u64)try_fault_read) {
		frame->rip = (u64)try_resume;
	} else if (frame->rip == (u64)user_doorbell) {
		frame->rip = (u64)user_doorbell_end;
		mail.answer = 1;
	} else {
		unexpected(frame);
	}
}

static void on_wake(struct frame *frame)
{
	(void)frame;
	wakes++;
	*(volatile u32 *)0xfee000b0 = 0;
}

static void user_loop(void)
{
	while (!leave)
		turns[1]++;
}

static void ring(void (*how)(void))
{
	for (unsigned i = 0; i < 6; i++)
		doorbell_registers[i] = mail.argument[i];
	how();
	for (unsigned i = 0; i < 6; i++)
		mail.result[i] = doorbell_registers[i];
}

static void ring_at_user(void)
{
	ring(user_doorbell_go);
}

static void register_symcalls(void)
{
	write_msr(MSR_SYMBIOTIC_VM_PAGE, (u64)vm_page);
	write_msr(MSR_SYMBIOTIC_VCPU_PAGE, (u64)vcpu_page);
	write_msr(MSR_SYMBIOTIC_RSP, (u64)symcall_stack_top);
	write_msr(MSR_SYMBIOTIC_CS, SELECTOR_SYMCALL_CODE);
	write_msr(MSR_SYMBIOTIC_GS_BASE, (u64)saved_registers);
	write_msr(MSR_SYMBIOTIC_FS_BASE, 0);
	write_msr(MSR_SYMBIOTIC_CR3_CLEAR, 0);
	write_msr(MSR_SYMBIOTIC_PROMISES, SYMBIOTIC_PROMISE_NO_FPU);
	write_msr(MSR_SYMBIOTIC_RIP, (u64)symcall_entry);
	*(volatile u32 *)(vcpu_page + SYMBIOTIC_FLAGS_OFFSET) |= SYMBIOTIC_VCPU_ENABLED;
}

static void serve(void)
{
	u64 *argument = (u64 *)mail.argument;
	u64 value = 0;
	u32 id[4];
	u32 low = 0;

	mail.answer = 0;
	switch (mail.command) {
	case MAIL_WRMSR:
		mail.answer = try_wrmsr(argument[0], argument[1]);
		break;
	case MAIL_RDMSR:
		mail.answer = try_rdmsr(argument[0], &value);
		mail.result[0] = value;
		break;
	case MAIL_DOORBELL:
		ring(doorbell);
		break;
	case MAIL_OUT8:
		__asm__ volatile("outb %b0, %w1" : : "a"(argument[1]), "d"(argument[0]));
		break;
	case MAIL_OUT16:
		__asm__ volatile("outw %w0, %w1" : : "a"(argument[1]), "d"(argument[0]));
		break;
	case MAIL_IN32:
		__asm__ volatile("inl %w1, %0" : "=a"(low) : "d"(argument[0]));
		mail.result[0] = low;
		break;
	case MAIL_CPUID:
		cpuid(argument[0], argument[1], id);
		for (unsigned i = 0; i < 4; i++)
			mail.result[i] = id[i];
		break;
	case MAIL_USER:
		leave = 0;
		run_user(user_loop);
		break;
	case MAIL_USER_DOORBELL:
		run_user(ring_at_user);
		break;
	case MAIL_HALT:
		wakes = 0;
		__asm__ volatile("sti; hlt; cli");
		mail.answer = wakes;
		break;
	case MAIL_REGISTER:
		register_symcalls();
		break;
	case MAIL_LOAD:
		mail.result[0] = *(volatile u64 *)argument[0];
		break;
	case MAIL_STORE:
		*(volatile u64 *)argument[0] = argument[1];
		break;
	}
	mail.command = 0;
}

void guest(void)
{
	set_trap(VECTOR_GP, on_protection);
	set_trap(0x50, on_wake);
	*(volatile u32 *)0xfee000f0 = 0x1ff;
	register_symcalls();
	report(1);
	for (;;) {
		turns[0]++;
		if (mail.command)
			serve();
	}
}

/* What another vCPU runs: its own page, and then it scribbles over the first one's. */
void second(void);
void second(void)
{
	u64 random = 1;

	write_msr(MSR_SYMBIOTIC_VCPU_PAGE, (u64)other_page);
	report(2);
	for (;;) {
		random = mix(random);
		if (race)
			((volatile u32 *)vcpu_page)[random % 3] = random >> 32;
		if (race && random >> 60 == 0)
			*(volatile u32 *)(vcpu_page + SYMBIOTIC_FLAGS_OFFSET) =
			        SYMBIOTIC_VCPU_ENABLED;
		turns[2]++;
	}
}
