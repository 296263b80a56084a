/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that keeps all its state under check, at CPL 0 and CPL 3, while it is upcalled: known
 * values go into every register, an operation runs, and everything must be as the operation leaves
 * it.
 */
#include "checks.h"

enum {
	WINDOWS = 3,     /* between two checks of the system registers */
	LATE_EXITS = 16, /* as in window.S */
	OUT_LENGTH = 2,  /* of OUT 0x80, AL */
};

/* What the test says. */
volatile u64 echo_windows, loop_windows; /* more of them a round: at CPL 0, at CPL 3 */
volatile u64 seed, promise, isolate, stop, kinds = ~0ULL, shadow_kept = 1;
u64 entry_bases[2]; /* FS, GS of symcalls */

/* What it finds. */
volatile u64 failure[4], windows[2];
volatile u64 operations[64][2];
u64 user_ports = 1;
volatile u64 current; /* operation */

u64 cookies[2][64], random_state;
unsigned level;
static u8 upper_loaded;

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
	start_system();
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
