/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls into a guest the plain way: /dev/kvm, one vCPU, and nothing between. The limit that a
 * symcall is measured against, and what it costs without care.
 *
 *   bare_symcall IMAGE METHOD PORT FLAGS ROUNDS
 *
 * IMAGE is the memory of the guest, as bench/loads/symguest.py makes it. METHOD:
 *   plain       an exit and no call
 *   regs        GET_REGS, GET_SREGS, SET_SREGS, SET_REGS; restored by the same two
 *   sync        registers and segments through the run structure (KVM_CAP_SYNC_REGS)
 *   sync-regs   general registers only through the run structure; right at CPL 0 alone
 * Prints the nanoseconds from the guest's mark to its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <symbiotic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	RAM = 2 << 20,
	/* What the image has where: bench/loads/symguest.py. */
	CODE = 0x1000,
	ENTRY = 0x1800,
	CALL_STACK = 0x7000,
	STACK = 0x8000,
	TABLES = 0x9000,
	GDT = 0x500,
	GDT_LIMIT = 6 * 8 - 1,
	CS = 0x10,
	SS = 0x18,
	MARK_PORT = 0xf5,
	END_PORT = 0x604,
};

enum method { PLAIN, REGS, SYNC, SYNC_REGS };

static int vcpu;
static struct kvm_run *run;
static enum method method;

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "unexpected");
	exit(1);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static struct kvm_segment flat(int type, int selector)
{
	struct kvm_segment segment = {
	        .limit = 0xffffffff,
	        .selector = selector,
	        .type = type,
	        .present = 1,
	        .s = 1,
	        .g = 1,
	        .l = type & 8 ? 1 : 0,
	        .db = type & 8 ? 0 : 1,
	};

	return segment;
}

static void set_entry_segments(struct kvm_sregs *sregs)
{
	sregs->cs = flat(0xb, CS);
	sregs->ss = flat(3, SS);
	sregs->gs.base = 0;
}

static void set_entry_registers(struct kvm_regs *regs, uint64_t round)
{
	memset(regs, 0, sizeof(*regs));
	regs->rax = 1; /* TEST */
	regs->rbx = round;
	regs->rip = ENTRY;
	regs->rsp = CALL_STACK;
	regs->rflags = 2;
}

static void enter(void)
{
	must(!ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
}

static void settle(void)
{
	run->immediate_exit = 1;
	must(ioctl(vcpu, KVM_RUN, 0) == -1 && errno == EINTR, "KVM_RUN with immediate_exit");
	run->immediate_exit = 0;
}

static void handler_returned(const struct kvm_regs *regs, uint64_t round)
{
	must(run->exit_reason == KVM_EXIT_IO && run->io.port == SYMBIOTIC_PORT,
	     "the handler's exit");
	must((uint32_t)regs->rax == SYMBIOTIC_RETURN && regs->rbx >= round, "the handler's answer");
}

static void call_by_ioctls(uint64_t round)
{
	struct kvm_regs regs, entry;
	struct kvm_sregs sregs, kernel;

	must(!ioctl(vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
	must(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	kernel = sregs;
	set_entry_segments(&kernel);
	set_entry_registers(&entry, round);
	must(!ioctl(vcpu, KVM_SET_SREGS, &kernel), "KVM_SET_SREGS");
	must(!ioctl(vcpu, KVM_SET_REGS, &entry), "KVM_SET_REGS");
	enter();
	must(!ioctl(vcpu, KVM_GET_REGS, &entry), "KVM_GET_REGS");
	handler_returned(&entry, round);
	must(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/* KVM takes the registers over inside KVM_RUN: nothing but two entries is left of a call. */
static void call_by_sync(uint64_t round)
{
	struct kvm_sync_regs *shared = &run->s.regs;
	struct kvm_regs regs = shared->regs;
	struct kvm_sregs sregs;

	if (method == SYNC) {
		sregs = shared->sregs;
		set_entry_segments(&shared->sregs);
	}
	set_entry_registers(&shared->regs, round);
	run->kvm_dirty_regs = run->kvm_valid_regs;
	enter();
	handler_returned(&shared->regs, round);
	shared->regs = regs;
	if (method == SYNC)
		shared->sregs = sregs;
	run->kvm_dirty_regs = run->kvm_valid_regs;
}

static void call(uint32_t port, uint64_t round)
{
	if (method == PLAIN)
		return;
	if (port != SYMBIOTIC_PORT)
		settle();
	if (method == REGS)
		call_by_ioctls(round);
	else
		call_by_sync(round);
}

/* The nanoseconds from the guest's mark to its end. */
static uint64_t loop(uint32_t port)
{
	uint64_t begin = 0;

	for (uint64_t round = 0;; round++) {
		enter();
		must(run->exit_reason == KVM_EXIT_IO, "the guest's exit");
		if (run->io.port == END_PORT)
			return now() - begin;
		if (run->io.port == MARK_PORT) {
			begin = now();
			continue;
		}
		must(run->io.port == port, "the guest's port");
		call(port, round);
	}
}

static void start(uint32_t port, uint32_t flags, uint32_t rounds)
{
	/* As CpuState("long") of pyvmm sets it; the image expects its parameters in these
	 * registers. */
	struct kvm_regs regs = {
	        .rip = CODE,
	        .rsp = STACK,
	        .rflags = 2,
	        .rax = 0,
	        .rbx = rounds,
	        .rsi = port,
	        .rdi = flags,
	};
	struct kvm_sregs sregs;

	must(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = flat(0xb, CS);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(3, SS);
	sregs.gdt.base = GDT;
	sregs.gdt.limit = GDT_LIMIT;
	sregs.cr3 = TABLES;
	sregs.cr4 = 1 << 5;
	sregs.efer = 1 << 8 | 1 << 10;
	sregs.cr0 = 0x80000011;
	must(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/* What pyvmm gives its guests: everything KVM offers. Without CPUID there is no long mode. */
static void offer_cpuid(int kvm)
{
	struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + 256 * sizeof(table->entries[0]));

	must(table != NULL, "memory");
	table->nent = 256;
	must(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, table), "KVM_GET_SUPPORTED_CPUID");
	must(!ioctl(vcpu, KVM_SET_CPUID2, table), "KVM_SET_CPUID2");
	free(table);
}

static uint8_t *load(const char *image)
{
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int file = open(image, O_RDONLY | O_CLOEXEC);

	must(ram != MAP_FAILED && file >= 0, image);
	must(read(file, ram, RAM) > CODE, image);
	close(file);
	return ram;
}

static void create(const char *image)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region slot = {
	        .memory_size = RAM,
	        .userspace_addr = (uintptr_t)load(image),
	};
	int size;

	must(kvm >= 0 && vm >= 0, "/dev/kvm");
	must(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	must(vcpu >= 0 && size > 0, "KVM_CREATE_VCPU");
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	must(run != MAP_FAILED, "mmap of the run structure");
	offer_cpuid(kvm);
}

static enum method method_of(const char *name)
{
	static const char *const known[] = {"plain", "regs", "sync", "sync-regs"};

	for (int i = 0; i < 4; i++) {
		if (!strcmp(name, known[i]))
			return i;
	}
	must(0, name);
	return PLAIN;
}

int main(int argc, char **argv)
{
	uint32_t port;

	must(argc == 6, "usage: bare_symcall IMAGE METHOD PORT FLAGS ROUNDS");
	method = method_of(argv[2]);
	port = strtoul(argv[3], NULL, 0);
	create(argv[1]);
	start(port, strtoul(argv[4], NULL, 0), strtoul(argv[5], NULL, 0));
	if (method == SYNC)
		run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	if (method == SYNC_REGS)
		run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	printf("%llu\n", (unsigned long long)loop(port));
	return 0;
}
