/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ioctls of a vCPU without KVM, for programs that run the vCPU loop: the calls about its state
 * are answered here, and what KVM_RUN comes back with is the program's.
 */
#ifndef FAKE_KVM_H
#define FAKE_KVM_H

#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

/* What KVM knows of a vCPU. The first three may lie in the area that it shares. */
struct fake_vcpu {
	struct kvm_regs *regs;
	struct kvm_sregs *sregs;
	struct kvm_vcpu_events *events;
	uint32_t mp_state;
	uint16_t nested;  /* flags of KVM_GET_NESTED_STATE, */
	int nested_error; /* or the errno that it fails with */
	bool has_extras;  /* MSRs and the XSAVE area, which are calls and not in the shared area */
	uint32_t debug_control; /* as KVM was told last */
};

/* The program has these two: KVM_RUN, and whose state another call is about, or NULL and errno. */
int fake_run(int fd);
struct fake_vcpu *fake_vcpu_of(int fd, unsigned long request);

/* In place of ioctl(). */
int fake_ioctl(int fd, unsigned long request, ...);
int fake_ioctl_with(int fd, unsigned long request, va_list rest);

/* The vCPU is in long mode, with a GDT of 16 entries. */
void fake_long_mode(struct kvm_sregs *sregs);

/* KVM_RUN comes back from an instruction that writes to a port, once or from a string. */
struct fake_port {
	uint16_t number;
	uint8_t size;
	uint32_t count;
	uint64_t offset; /* of the data from the shared area on; it need not be within */
};
enum { FAKE_PORT_DATA = 8192 };
void fake_out(struct kvm_run *run, const struct fake_port *port, uint32_t value);

#endif
