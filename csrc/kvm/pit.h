/* SPDX-License-Identifier: Apache-2.0 */
/* The i8254 interval timer in the kernel. */
#ifndef PYVMM_KVM_PIT_H
#define PYVMM_KVM_PIT_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_PIT_SPEAKER_DUMMY ...
#define KVM_PIT_FLAGS_HPET_LEGACY ...
#define KVM_PIT_FLAGS_SPEAKER_DATA_ON ...

struct kvm_pit_config {
	__u32 flags;
	...;
};

struct kvm_pit_channel_state {
	__u32 count;
	__u16 latched_count;
	__u8 count_latched;
	__u8 status_latched;
	__u8 status;
	__u8 read_state;
	__u8 write_state;
	__u8 write_latch;
	__u8 rw_mode;
	__u8 mode;
	__u8 bcd;
	__u8 gate;
	__s64 count_load_time;
};

struct kvm_pit_state2 {
	struct kvm_pit_channel_state channels[3];
	__u32 flags;
	...;
};

struct kvm_reinject_control {
	__u8 pit_reinject;
	...;
};

int kvm_create_pit2(int fd, struct kvm_pit_config *argument);
int kvm_get_pit2(int fd, struct kvm_pit_state2 *argument);
int kvm_set_pit2(int fd, struct kvm_pit_state2 *argument);
int kvm_reinject_control(int fd, struct kvm_reinject_control *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_create_pit2, KVM_CREATE_PIT2, struct kvm_pit_config)
KVM_IOCTL_POINTER(kvm_get_pit2, KVM_GET_PIT2, struct kvm_pit_state2)
KVM_IOCTL_POINTER(kvm_set_pit2, KVM_SET_PIT2, struct kvm_pit_state2)
KVM_IOCTL_POINTER(kvm_reinject_control, KVM_REINJECT_CONTROL, struct kvm_reinject_control)

#endif
