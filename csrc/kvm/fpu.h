/* SPDX-License-Identifier: Apache-2.0 */
/* x87, SSE and the extended state that XSAVE knows. */
#ifndef PYVMM_KVM_FPU_H
#define PYVMM_KVM_FPU_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_MAX_XCRS ...

struct kvm_fpu {
	__u8 fpr[8][16];
	__u16 fcw;
	__u16 fsw;
	__u8 ftwx;
	__u16 last_opcode;
	__u64 last_ip;
	__u64 last_dp;
	__u8 xmm[16][16];
	__u32 mxcsr;
	...;
};

struct kvm_xsave {
	__u32 region[1024];
	__u32 extra[];
	...;
};

struct kvm_xcr {
	__u32 xcr;
	__u32 reserved;
	__u64 value;
};

struct kvm_xcrs {
	__u32 nr_xcrs;
	__u32 flags;
	struct kvm_xcr xcrs[16];
	...;
};

int kvm_get_fpu(int fd, struct kvm_fpu *argument);
int kvm_set_fpu(int fd, struct kvm_fpu *argument);
int kvm_get_xsave(int fd, struct kvm_xsave *argument);
int kvm_get_xsave2(int fd, struct kvm_xsave *argument);
int kvm_set_xsave(int fd, struct kvm_xsave *argument);
int kvm_get_xcrs(int fd, struct kvm_xcrs *argument);
int kvm_set_xcrs(int fd, struct kvm_xcrs *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_fpu, KVM_GET_FPU, struct kvm_fpu)
KVM_IOCTL_POINTER(kvm_set_fpu, KVM_SET_FPU, struct kvm_fpu)
KVM_IOCTL_POINTER(kvm_get_xsave, KVM_GET_XSAVE, struct kvm_xsave)
KVM_IOCTL_POINTER(kvm_get_xsave2, KVM_GET_XSAVE2, struct kvm_xsave)
KVM_IOCTL_POINTER(kvm_set_xsave, KVM_SET_XSAVE, struct kvm_xsave)
KVM_IOCTL_POINTER(kvm_get_xcrs, KVM_GET_XCRS, struct kvm_xcrs)
KVM_IOCTL_POINTER(kvm_set_xcrs, KVM_SET_XCRS, struct kvm_xcrs)

#endif
