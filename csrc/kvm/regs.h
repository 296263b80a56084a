/* SPDX-License-Identifier: Apache-2.0 */
/* General, segment and control registers, and the walk of a guest's page tables. */
#ifndef PYVMM_KVM_REGS_H
#define PYVMM_KVM_REGS_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_SREGS2_FLAGS_PDPTRS_VALID ...
#define KVM_NR_INTERRUPTS ...

struct kvm_regs {
	__u64 rax;
	__u64 rbx;
	__u64 rcx;
	__u64 rdx;
	__u64 rsi;
	__u64 rdi;
	__u64 rsp;
	__u64 rbp;
	__u64 r8;
	__u64 r9;
	__u64 r10;
	__u64 r11;
	__u64 r12;
	__u64 r13;
	__u64 r14;
	__u64 r15;
	__u64 rip;
	__u64 rflags;
};

struct kvm_segment {
	__u64 base;
	__u32 limit;
	__u16 selector;
	__u8 type;
	__u8 present;
	__u8 dpl;
	__u8 db;
	__u8 s;
	__u8 l;
	__u8 g;
	__u8 avl;
	__u8 unusable;
	__u8 padding;
};

struct kvm_dtable {
	__u64 base;
	__u16 limit;
	__u16 padding[3];
};

struct kvm_sregs {
	struct kvm_segment cs;
	struct kvm_segment ds;
	struct kvm_segment es;
	struct kvm_segment fs;
	struct kvm_segment gs;
	struct kvm_segment ss;
	struct kvm_segment tr;
	struct kvm_segment ldt;
	struct kvm_dtable gdt;
	struct kvm_dtable idt;
	__u64 cr0;
	__u64 cr2;
	__u64 cr3;
	__u64 cr4;
	__u64 cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 interrupt_bitmap[4];
};

struct kvm_sregs2 {
	struct kvm_segment cs;
	struct kvm_segment ds;
	struct kvm_segment es;
	struct kvm_segment fs;
	struct kvm_segment gs;
	struct kvm_segment ss;
	struct kvm_segment tr;
	struct kvm_segment ldt;
	struct kvm_dtable gdt;
	struct kvm_dtable idt;
	__u64 cr0;
	__u64 cr2;
	__u64 cr3;
	__u64 cr4;
	__u64 cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 flags;
	__u64 pdptrs[4];
};

struct kvm_translation {
	__u64 linear_address;
	__u64 physical_address;
	__u8 valid;
	__u8 writeable;
	__u8 usermode;
	...;
};

int kvm_get_regs(int fd, struct kvm_regs *argument);
int kvm_set_regs(int fd, struct kvm_regs *argument);
int kvm_get_sregs(int fd, struct kvm_sregs *argument);
int kvm_set_sregs(int fd, struct kvm_sregs *argument);
int kvm_get_sregs2(int fd, struct kvm_sregs2 *argument);
int kvm_set_sregs2(int fd, struct kvm_sregs2 *argument);
int kvm_translate(int fd, struct kvm_translation *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_regs, KVM_GET_REGS, struct kvm_regs)
KVM_IOCTL_POINTER(kvm_set_regs, KVM_SET_REGS, struct kvm_regs)
KVM_IOCTL_POINTER(kvm_get_sregs, KVM_GET_SREGS, struct kvm_sregs)
KVM_IOCTL_POINTER(kvm_set_sregs, KVM_SET_SREGS, struct kvm_sregs)
KVM_IOCTL_POINTER(kvm_get_sregs2, KVM_GET_SREGS2, struct kvm_sregs2)
KVM_IOCTL_POINTER(kvm_set_sregs2, KVM_SET_SREGS2, struct kvm_sregs2)
KVM_IOCTL_POINTER(kvm_translate, KVM_TRANSLATE, struct kvm_translation)

#endif
