/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's debug registers, and debugging the guest from outside. */
#ifndef PYVMM_KVM_DEBUG_H
#define PYVMM_KVM_DEBUG_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_GUESTDBG_ENABLE ...
#define KVM_GUESTDBG_SINGLESTEP ...
#define KVM_GUESTDBG_USE_SW_BP ...
#define KVM_GUESTDBG_USE_HW_BP ...
#define KVM_GUESTDBG_INJECT_DB ...
#define KVM_GUESTDBG_INJECT_BP ...
#define KVM_GUESTDBG_BLOCKIRQ ...

struct kvm_debugregs {
	__u64 db[4];
	__u64 dr6;
	__u64 dr7;
	__u64 flags;
	...;
};

struct kvm_guest_debug_arch {
	__u64 debugreg[8];
};

struct kvm_guest_debug {
	__u32 control;
	__u32 pad;
	struct kvm_guest_debug_arch arch;
};

struct kvm_debug_exit_arch {
	__u32 exception;
	__u32 pad;
	__u64 pc;
	__u64 dr6;
	__u64 dr7;
};

int kvm_get_debugregs(int fd, struct kvm_debugregs *argument);
int kvm_set_debugregs(int fd, struct kvm_debugregs *argument);
int kvm_set_guest_debug(int fd, struct kvm_guest_debug *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_debugregs, KVM_GET_DEBUGREGS, struct kvm_debugregs)
KVM_IOCTL_POINTER(kvm_set_debugregs, KVM_SET_DEBUGREGS, struct kvm_debugregs)
KVM_IOCTL_POINTER(kvm_set_guest_debug, KVM_SET_GUEST_DEBUG, struct kvm_guest_debug)

#endif
