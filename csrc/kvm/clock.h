/* SPDX-License-Identifier: Apache-2.0 */
/* The paravirtual clock, the time-stamp counter's rate and its offset. */
#ifndef PYVMM_KVM_CLOCK_H
#define PYVMM_KVM_CLOCK_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_CLOCK_TSC_STABLE ...
#define KVM_CLOCK_REALTIME ...
#define KVM_CLOCK_HOST_TSC ...
#define KVM_VCPU_TSC_CTRL ...
#define KVM_VCPU_TSC_OFFSET ...

struct kvm_clock_data {
	__u64 clock;
	__u32 flags;
	__u64 realtime;
	__u64 host_tsc;
	...;
};

struct kvm_device_attr {
	__u32 flags;
	__u32 group;
	__u64 attr;
	__u64 addr;
};

int kvm_get_clock(int fd, struct kvm_clock_data *argument);
int kvm_set_clock(int fd, struct kvm_clock_data *argument);
int kvm_get_tsc_khz(int fd);
int kvm_set_tsc_khz(int fd, unsigned long argument);
int kvm_kvmclock_ctrl(int fd);
int kvm_has_device_attr(int fd, struct kvm_device_attr *argument);
int kvm_get_device_attr(int fd, struct kvm_device_attr *argument);
int kvm_set_device_attr(int fd, struct kvm_device_attr *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_clock, KVM_GET_CLOCK, struct kvm_clock_data)
KVM_IOCTL_POINTER(kvm_set_clock, KVM_SET_CLOCK, struct kvm_clock_data)
KVM_IOCTL_BARE(kvm_get_tsc_khz, KVM_GET_TSC_KHZ)
KVM_IOCTL_NUMBER(kvm_set_tsc_khz, KVM_SET_TSC_KHZ, unsigned long)
KVM_IOCTL_BARE(kvm_kvmclock_ctrl, KVM_KVMCLOCK_CTRL)
KVM_IOCTL_POINTER(kvm_has_device_attr, KVM_HAS_DEVICE_ATTR, struct kvm_device_attr)
KVM_IOCTL_POINTER(kvm_get_device_attr, KVM_GET_DEVICE_ATTR, struct kvm_device_attr)
KVM_IOCTL_POINTER(kvm_set_device_attr, KVM_SET_DEVICE_ATTR, struct kvm_device_attr)

#endif
