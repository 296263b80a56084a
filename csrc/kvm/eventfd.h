/* SPDX-License-Identifier: Apache-2.0 */
/* Eventfds that raise an interrupt, and eventfds that a guest's access signals. */
#ifndef PYVMM_KVM_EVENTFD_H
#define PYVMM_KVM_EVENTFD_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_IRQFD_FLAG_DEASSIGN ...
#define KVM_IRQFD_FLAG_RESAMPLE ...
#define KVM_IOEVENTFD_FLAG_DATAMATCH ...
#define KVM_IOEVENTFD_FLAG_PIO ...
#define KVM_IOEVENTFD_FLAG_DEASSIGN ...

struct kvm_irqfd {
	__u32 fd;
	__u32 gsi;
	__u32 flags;
	__u32 resamplefd;
	...;
};

struct kvm_ioeventfd {
	__u64 datamatch;
	__u64 addr;
	__u32 len;
	__s32 fd;
	__u32 flags;
	...;
};

int kvm_irqfd_assign(int fd, struct kvm_irqfd *argument);
int kvm_ioeventfd_assign(int fd, struct kvm_ioeventfd *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_irqfd_assign, KVM_IRQFD, struct kvm_irqfd)
KVM_IOCTL_POINTER(kvm_ioeventfd_assign, KVM_IOEVENTFD, struct kvm_ioeventfd)

#endif
