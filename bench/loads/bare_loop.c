/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit of any VMM: nothing but KVM_RUN in a loop, around a guest that writes a port N times
 * and halts. Prints the nanoseconds from the first entry to the halt.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { RAM = 1 << 20, CODE = 0x1000 };

static void must(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static void flat(struct kvm_segment *segment, int type, int selector)
{
	memset(segment, 0, sizeof(*segment));
	segment->limit = 0xffffffff;
	segment->selector = selector;
	segment->type = type;
	segment->present = segment->s = segment->g = segment->db = 1;
}

static void set_registers(int vcpu)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;

	must(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	flat(&sregs.cs, 0xb, 0x10);
	flat(&sregs.ds, 3, 0x18);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	sregs.cr0 = 0x11;
	must(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ULL + time.tv_nsec;
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1000;
	/* mov ecx, rounds; L: out 0xf4, al; dec ecx; jnz L; hlt */
	uint8_t code[] = {0xb9, 0, 0, 0, 0, 0xe6, 0xf4, 0x49, 0x75, 0xfb, 0xf4};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
	        .memory_size = RAM,
	        .userspace_addr = (uintptr_t)ram,
	};
	struct kvm_run *run;
	uint64_t start;
	int vcpu, size;

	must(kvm >= 0 && vm >= 0 && ram != MAP_FAILED, "/dev/kvm");
	memcpy(code + 1, &rounds, sizeof(rounds));
	memcpy(ram + CODE, code, sizeof(code));
	must(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	must(vcpu >= 0 && size > 0, "KVM_CREATE_VCPU");
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	must(run != MAP_FAILED, "mmap of the run structure");
	set_registers(vcpu);
	start = now();
	do
		must(!ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	while (run->exit_reason == KVM_EXIT_IO);
	must(run->exit_reason == KVM_EXIT_HLT, "the guest did not halt");
	printf("%llu\n", (unsigned long long)(now() - start));
	return 0;
}
