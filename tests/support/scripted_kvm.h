/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCRIPTED_KVM_H
#define SCRIPTED_KVM_H

/* One return of KVM_RUN: with an errno, or with an exit reason and a word about it. */
struct fake_exit {
	int error;
	unsigned int reason;
	unsigned int detail;
	unsigned long long value; /* of a write; an MMIO access without one is a read */
	unsigned int goes_on; /* of the instruction before: immediate_exit does not keep it away */
};

/* What the next port exits are, instead of an OUT of four bytes. */
void fake_port(unsigned int size, unsigned int count, unsigned long long offset);

/* Bytes that the instruction of an MMIO or port access has. */
enum { FAKE_INSTRUCTION = 3 };

/* While it runs the registers that KVM shares are those of the vCPU. */
void fake_kvm(void *run, const struct fake_exit *list, unsigned int count);

/* Access to what lies deep in struct kvm_run. */
struct kvm_regs;
void fake_enter_long_mode(void *run);
struct kvm_regs *fake_registers(void *run);
unsigned int fake_dirty(void *run);
void fake_smm(void *run, unsigned int on);
void fake_nmi_masked(void *run, unsigned int on);
/* What KVM_SET_GUEST_DEBUG said last. */
unsigned int fake_debug_control(void);

/* Whether it is in HLT. */
void fake_sleep(unsigned int asleep);
unsigned int fake_sleeps(void);

/* What KVM_GET_NESTED_STATE says from now on: its flags, or an errno. */
void fake_nested(unsigned int flags, int error);

#endif
