/* SPDX-License-Identifier: Apache-2.0 */
/* Pending and injected events, the running state of a vCPU, and queueing an interrupt by hand. */
#ifndef PYVMM_KVM_EVENTS_H
#define PYVMM_KVM_EVENTS_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_VCPUEVENT_VALID_NMI_PENDING ...
#define KVM_VCPUEVENT_VALID_SIPI_VECTOR ...
#define KVM_VCPUEVENT_VALID_SHADOW ...
#define KVM_VCPUEVENT_VALID_SMM ...
#define KVM_VCPUEVENT_VALID_PAYLOAD ...
#define KVM_VCPUEVENT_VALID_TRIPLE_FAULT ...
#define KVM_X86_SHADOW_INT_MOV_SS ...
#define KVM_X86_SHADOW_INT_STI ...
#define KVM_MP_STATE_RUNNABLE ...
#define KVM_MP_STATE_UNINITIALIZED ...
#define KVM_MP_STATE_INIT_RECEIVED ...
#define KVM_MP_STATE_HALTED ...
#define KVM_MP_STATE_SIPI_RECEIVED ...
#define DE_VECTOR ...
#define DB_VECTOR ...
#define BP_VECTOR ...
#define OF_VECTOR ...
#define BR_VECTOR ...
#define UD_VECTOR ...
#define NM_VECTOR ...
#define DF_VECTOR ...
#define TS_VECTOR ...
#define NP_VECTOR ...
#define SS_VECTOR ...
#define GP_VECTOR ...
#define PF_VECTOR ...
#define MF_VECTOR ...
#define AC_VECTOR ...
#define MC_VECTOR ...
#define XM_VECTOR ...
#define VE_VECTOR ...

struct kvm_vcpu_events {
	struct {
		__u8 injected;
		__u8 nr;
		__u8 has_error_code;
		__u8 pending;
		__u32 error_code;
	} exception;
	struct {
		__u8 injected;
		__u8 nr;
		__u8 soft;
		__u8 shadow;
	} interrupt;
	struct {
		__u8 injected;
		__u8 pending;
		__u8 masked;
		__u8 pad;
	} nmi;
	__u32 sipi_vector;
	__u32 flags;
	struct {
		__u8 smm;
		__u8 pending;
		__u8 smm_inside_nmi;
		__u8 latched_init;
	} smi;
	struct {
		__u8 pending;
	} triple_fault;
	__u8 reserved[26];
	__u8 exception_has_payload;
	__u64 exception_payload;
};

struct kvm_mp_state {
	__u32 mp_state;
};

struct kvm_interrupt {
	__u32 irq;
};

int kvm_get_vcpu_events(int fd, struct kvm_vcpu_events *argument);
int kvm_set_vcpu_events(int fd, struct kvm_vcpu_events *argument);
int kvm_get_mp_state(int fd, struct kvm_mp_state *argument);
int kvm_set_mp_state(int fd, struct kvm_mp_state *argument);
int kvm_inject_interrupt(int fd, struct kvm_interrupt *argument);
int kvm_inject_nmi(int fd);
int kvm_inject_smi(int fd);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_vcpu_events, KVM_GET_VCPU_EVENTS, struct kvm_vcpu_events)
KVM_IOCTL_POINTER(kvm_set_vcpu_events, KVM_SET_VCPU_EVENTS, struct kvm_vcpu_events)
KVM_IOCTL_POINTER(kvm_get_mp_state, KVM_GET_MP_STATE, struct kvm_mp_state)
KVM_IOCTL_POINTER(kvm_set_mp_state, KVM_SET_MP_STATE, struct kvm_mp_state)
KVM_IOCTL_POINTER(kvm_inject_interrupt, KVM_INTERRUPT, struct kvm_interrupt)
KVM_IOCTL_BARE(kvm_inject_nmi, KVM_NMI)
KVM_IOCTL_BARE(kvm_inject_smi, KVM_SMI)

#endif
