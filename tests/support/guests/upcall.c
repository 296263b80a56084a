/* SPDX-License-Identifier: Apache-2.0 */
/* The symcall handler of the integrity guest: checks how it is entered and loses all state it can.
 */
#include "integrity.h"

#define HANDLER      __attribute__((section(".handler.text")))
#define HANDLER_DATA __attribute__((section(".handler.data")))

enum {
	ERRNOS = 4095,
	RFLAGS_RUBBISH = CF_TO_SF | FLAG_DF | FLAG_OF | FLAG_AC | FLAG_ID | 2,
};

HANDLER_DATA u64 handler_sequence, handler_random;
HANDLER_DATA volatile u64 upcalls, nmi_inside, inside, spinning, upcalls_by_bit[16];
u8 vcpu_page[4096] __attribute__((aligned(4096)));
u8 vm_page[4096] __attribute__((aligned(4096)));

HANDLER static u64 any(void)
{
	return mix(handler_random++);
}

HANDLER static void expect(u64 which, u64 expected, u64 got)
{
	if (expected != got)
		fail(FAILED_ENTRY, which, expected, got);
}

HANDLER static void check_entry(void)
{
	u16 cs, ss;

	expect(RSP, (u64)handler_stack_top, entry.general[RSP]);
	expect(RBP, 0, entry.general[RBP]);
	for (unsigned i = R8; i <= R15; i++)
		expect(i, 0, entry.general[i]);
	expect(GENERAL, 2, entry.rflags);
	__asm__ volatile("mov %%cs, %0; mov %%ss, %1" : "=r"(cs), "=r"(ss));
	expect(20, SELECTOR_SYMCALL_CODE, cs);
	expect(21, SELECTOR_SYMCALL_CODE + 8, ss);
	expect(22, entry_bases[1], read_msr(MSR_GS_BASE));
	if (entry_bases[0])
		expect(23, entry_bases[0], read_msr(MSR_FS_BASE));
	expect(24, KERNEL_TABLES, read_cr3());
	expect(25, SYMBIOTIC_VCPU_ACTIVE,
	       vcpu_page[SYMBIOTIC_FLAGS_OFFSET] & SYMBIOTIC_VCPU_ACTIVE);
}

HANDLER static void lose_vectors(void)
{
	random_vectors(vectors_lost, 512);
	__asm__ volatile("fxrstor64 %0" : : "m"(vectors_lost));
	__asm__ volatile("movups %0, %%xmm5; movups %0, %%xmm15" : : "m"(vectors_lost[164]));
}

HANDLER static void lose_all_vectors(void)
{
	u64 before = interrupts;

	random_vectors(vectors_lost, sizeof(vectors_lost));
	excursion();
	if (interrupts != before)
		fail(FAILED_INTERRUPTS, 200, before, interrupts);
}

HANDLER static void use_ports(void)
{
	const u16 port = DEVICE_PORT + DEVICE_PORT_STEP;
	u64 value = device_value(&handler_sequence, ACCESS_PORT | ACCESS_WRITE, port, 4);
	u32 got;

	__asm__ volatile("out %%eax, %%dx" : : "a"((u32)value), "d"(port) : "memory");
	__asm__ volatile("in %%dx, %%eax" : "=a"(got) : "d"(port) : "memory");
	value = device_value(&handler_sequence, ACCESS_PORT, port, 4);
	if (got != value)
		fail(FAILED_DEVICE, ACCESS_PORT, value, got);
}

HANDLER static void use_memory(void)
{
	const u64 address = DEVICE_MMIO + DEVICE_MMIO_STEP + 8;
	u64 value = device_value(&handler_sequence, ACCESS_MMIO, address, 8);
	u64 got;

	__asm__ volatile("movq (%1), %0" : "=a"(got) : "b"(address) : "memory");
	if (got != value)
		fail(FAILED_DEVICE, ACCESS_MMIO, value, got);
	value = device_value(&handler_sequence, ACCESS_MMIO | ACCESS_WRITE, address, 8);
	__asm__ volatile("movq %0, (%1)" : : "a"(value), "b"(address) : "memory");
}

HANDLER static void use_msr(void)
{
	const u32 index = DEVICE_MSR + DEVICE_MSR_STEP;
	u64 value = device_value(&handler_sequence, ACCESS_MSR, index, 8);
	u64 got = read_msr(index);

	if (got != value)
		fail(FAILED_DEVICE, ACCESS_MSR, value, got);
	write_msr(index, device_value(&handler_sequence, ACCESS_MSR | ACCESS_WRITE, index, 8));
}

HANDLER static void lose_segments(void)
{
	const u16 selector = any() & 1 ? SELECTOR_OTHER_DATA : SELECTOR_KERNEL_DATA;

	__asm__ volatile("mov %w0, %%ds; mov %w0, %%es; mov %w0, %%fs; mov %w0, %%gs"
	                 :
	                 : "r"(selector));
	write_msr(MSR_FS_BASE, any() >> 20);
	write_msr(MSR_GS_BASE, any() >> 20);
	if (!promise)
		write_msr(MSR_KERNEL_GS_BASE, any() >> 20);
}

/* Interrupts are off, whatever CR8 says. With CR0.TS there are no vector registers: the last to be
 * lost. */
HANDLER static void lose_control(void)
{
	u64 bits = any();

	write_cr0(read_cr0() ^ (bits & (CR0_MP | CR0_TS | CR0_AM)));
	write_cr4(read_cr4() ^ (bits & (CR4_TSD | CR4_DE | CR4_PCE)));
	set_cr8(bits >> 32 & 15);
	write_msr(MSR_EFER, read_msr(MSR_EFER) ^ (bits & EFER_SCE));
	load_tables(bits >> 36 & 1);
}

/*
 * It comes after the return where one is being served, or where the VMM has KVM hold back all
 * interrupts until an instruction is over.
 */
HANDLER static void interrupt_myself(void)
{
	send_nmi();
	if (in_nmi)
		return;
	/* Exits: a software KVM may look for it there only. */
	for (unsigned i = 0; i < 10 && nmi_sent != nmi_seen; i++)
		__asm__ volatile("outb %%al, $0x80" : : "a"(0));
	nmi_inside += nmi_sent == nmi_seen;
}

HANDLER static void use_data(u64 length)
{
	volatile u8 *data = vcpu_page + SYMBIOTIC_DATA_OFFSET;

	for (u64 i = 0; i < length && i < 0xc00; i++)
		data[i] ^= 0x5a;
}

/* One NMI at a time: two that wait would become one. */
HANDLER static u64 possible(u64 what)
{
	if (nmi_sent != nmi_seen)
		what &= ~(u64)UPCALL_NMI;
	return what & UPCALL_EXCURSION ? what & ~(u64)UPCALL_NMI : what;
}

/* The VMM cuts it short. The guest then registers anew. */
HANDLER static void spin(void)
{
	spinning = 1;
	for (;;)
		__asm__ volatile("pause");
}

HANDLER static void lose(u64 what, u64 length)
{
	what = possible(what);
	if (what & UPCALL_VECTORS)
		lose_vectors();
	if (what & UPCALL_EXCURSION)
		lose_all_vectors();
	if (what & UPCALL_PORT)
		use_ports();
	if (what & UPCALL_MMIO)
		use_memory();
	if (what & UPCALL_MSR)
		use_msr();
	if (what & UPCALL_SEGMENTS)
		lose_segments();
	if (what & UPCALL_CR2)
		write_cr2(any());
	if (what & UPCALL_CONTROL)
		lose_control();
	if (what & UPCALL_NMI)
		interrupt_myself();
	if (what & UPCALL_DATA)
		use_data(length);
	for (unsigned i = 0; i < 16; i++)
		upcalls_by_bit[i] += what >> i & 1;
	if (what & UPCALL_SPIN)
		spin();
}

/* The results, or an errno: what the call ends with. */
HANDLER static void answer(u64 *r, bool failed)
{
	if (r[RAX] != SYMCALL_TEST)
		r[RBX] = mix(r[RBX] ^ r[RAX]);
	r[RBX] += 1;
	r[RCX] += 1;
	r[RDX] += 1;
	r[RSI] += 1;
	r[RDI] += 1;
	ending = failed ? SYMBIOTIC_ERROR : SYMBIOTIC_RETURN;
	if (failed)
		r[RBX] = 1 + r[RBX] % ERRNOS;
}

void upcall(void);
HANDLER void upcall(void)
{
	u64 *r = entry.general;
	u64 what = r[RAX] >= UPCALL_FIRST ? r[RAX] - UPCALL_FIRST : 0;

	upcalls++;
	check_entry();
	/* One inside another would have the same stack. */
	expect(30, 0, inside);
	inside = r[RAX];
	if (what)
		lose(what, r[RDI]);
	rubbish = any();
	rubbish_flags = (rubbish & RFLAGS_RUBBISH) | 2;
	answer(r, what & UPCALL_FAIL);
	inside = 0;
}
