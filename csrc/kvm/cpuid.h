/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID leaves: what the host can offer, and what a vCPU shows. */
#ifndef PYVMM_KVM_CPUID_H
#define PYVMM_KVM_CPUID_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_CPUID_FLAG_SIGNIFCANT_INDEX ...

struct kvm_cpuid_entry2 {
	__u32 function;
	__u32 index;
	__u32 flags;
	__u32 eax;
	__u32 ebx;
	__u32 ecx;
	__u32 edx;
	...;
};

struct kvm_cpuid2 {
	__u32 nent;
	struct kvm_cpuid_entry2 entries[];
	...;
};

int kvm_get_supported_cpuid(int fd, struct kvm_cpuid2 *argument);
int kvm_get_emulated_cpuid(int fd, struct kvm_cpuid2 *argument);
int kvm_get_cpuid2(int fd, struct kvm_cpuid2 *argument);
int kvm_set_cpuid2(int fd, struct kvm_cpuid2 *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_supported_cpuid, KVM_GET_SUPPORTED_CPUID, struct kvm_cpuid2)
KVM_IOCTL_POINTER(kvm_get_emulated_cpuid, KVM_GET_EMULATED_CPUID, struct kvm_cpuid2)
KVM_IOCTL_POINTER(kvm_get_cpuid2, KVM_GET_CPUID2, struct kvm_cpuid2)
KVM_IOCTL_POINTER(kvm_set_cpuid2, KVM_SET_CPUID2, struct kvm_cpuid2)

#endif
