/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a guest hypervisor: its VMCS or VMCB. */
#ifndef PYVMM_KVM_NESTED_H
#define PYVMM_KVM_NESTED_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_STATE_NESTED_FORMAT_VMX ...
#define KVM_STATE_NESTED_FORMAT_SVM ...
#define KVM_STATE_NESTED_GUEST_MODE ...
#define KVM_STATE_NESTED_RUN_PENDING ...

struct kvm_nested_state {
	__u16 flags;
	__u16 format;
	__u32 size;
	...;
};

int kvm_get_nested_state(int fd, struct kvm_nested_state *argument);
int kvm_set_nested_state(int fd, struct kvm_nested_state *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_nested_state, KVM_GET_NESTED_STATE, struct kvm_nested_state)
KVM_IOCTL_POINTER(kvm_set_nested_state, KVM_SET_NESTED_STATE, struct kvm_nested_state)

#endif
