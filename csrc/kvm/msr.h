/* SPDX-License-Identifier: Apache-2.0 */
/* Model-specific registers: lists, values, and the filter that sends an access to user space. */
#ifndef PYVMM_KVM_MSR_H
#define PYVMM_KVM_MSR_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_MSR_FILTER_READ ...
#define KVM_MSR_FILTER_WRITE ...
#define KVM_MSR_FILTER_DEFAULT_ALLOW ...
#define KVM_MSR_FILTER_DEFAULT_DENY ...
#define KVM_MSR_FILTER_MAX_RANGES ...
#define KVM_MSR_FILTER_MAX_BITMAP_SIZE ...
#define KVM_MSR_EXIT_REASON_INVAL ...
#define KVM_MSR_EXIT_REASON_UNKNOWN ...
#define KVM_MSR_EXIT_REASON_FILTER ...

struct kvm_msr_list {
	__u32 nmsrs;
	__u32 indices[];
	...;
};

struct kvm_msr_entry {
	__u32 index;
	__u32 reserved;
	__u64 data;
};

struct kvm_msrs {
	__u32 nmsrs;
	struct kvm_msr_entry entries[];
	...;
};

struct kvm_msr_filter_range {
	__u32 flags;
	__u32 nmsrs;
	__u32 base;
	__u8 *bitmap;
};

struct kvm_msr_filter {
	__u32 flags;
	struct kvm_msr_filter_range ranges[16];
};

int kvm_get_msr_index_list(int fd, struct kvm_msr_list *argument);
int kvm_get_msr_feature_index_list(int fd, struct kvm_msr_list *argument);
int kvm_get_msrs(int fd, struct kvm_msrs *argument);
int kvm_set_msrs(int fd, struct kvm_msrs *argument);
int kvm_x86_set_msr_filter(int fd, struct kvm_msr_filter *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_msr_index_list, KVM_GET_MSR_INDEX_LIST, struct kvm_msr_list)
KVM_IOCTL_POINTER(kvm_get_msr_feature_index_list, KVM_GET_MSR_FEATURE_INDEX_LIST,
                  struct kvm_msr_list)
KVM_IOCTL_POINTER(kvm_get_msrs, KVM_GET_MSRS, struct kvm_msrs)
KVM_IOCTL_POINTER(kvm_set_msrs, KVM_SET_MSRS, struct kvm_msrs)
KVM_IOCTL_POINTER(kvm_x86_set_msr_filter, KVM_X86_SET_MSR_FILTER, struct kvm_msr_filter)

#endif
