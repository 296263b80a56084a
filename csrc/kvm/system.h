/* SPDX-License-Identifier: Apache-2.0 */
/* The three kinds of descriptor and how one makes the next: system, VM, vCPU. */
#ifndef PYVMM_KVM_SYSTEM_H
#define PYVMM_KVM_SYSTEM_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_API_VERSION ...

int kvm_get_api_version(int fd);
int kvm_get_vcpu_mmap_size(int fd);
int kvm_create_vm(int fd, unsigned long argument);
int kvm_create_vcpu(int fd, unsigned long argument);
int kvm_get_stats_fd(int fd);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_BARE(kvm_get_api_version, KVM_GET_API_VERSION)
KVM_IOCTL_BARE(kvm_get_vcpu_mmap_size, KVM_GET_VCPU_MMAP_SIZE)
KVM_IOCTL_NUMBER(kvm_create_vm, KVM_CREATE_VM, unsigned long)
KVM_IOCTL_NUMBER(kvm_create_vcpu, KVM_CREATE_VCPU, unsigned long)
KVM_IOCTL_BARE(kvm_get_stats_fd, KVM_GET_STATS_FD)

#endif
