/* SPDX-License-Identifier: Apache-2.0 */
/* Where a global system interrupt goes, and message-signalled interrupts. */
#ifndef PYVMM_KVM_ROUTING_H
#define PYVMM_KVM_ROUTING_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_IRQ_ROUTING_IRQCHIP ...
#define KVM_IRQ_ROUTING_MSI ...
#define KVM_MSI_VALID_DEVID ...

struct kvm_irq_routing_irqchip {
	__u32 irqchip;
	__u32 pin;
};

struct kvm_irq_routing_msi {
	__u32 address_lo;
	__u32 address_hi;
	__u32 data;
	union {
		__u32 pad;
		__u32 devid;
	};
};

struct kvm_irq_routing_entry {
	__u32 gsi;
	__u32 type;
	__u32 flags;
	__u32 pad;
	union {
		struct kvm_irq_routing_irqchip irqchip;
		struct kvm_irq_routing_msi msi;
		__u32 pad[8];
	} u;
	...;
};

struct kvm_irq_routing {
	__u32 nr;
	__u32 flags;
	struct kvm_irq_routing_entry entries[];
	...;
};

struct kvm_msi {
	__u32 address_lo;
	__u32 address_hi;
	__u32 data;
	__u32 flags;
	__u32 devid;
	...;
};

int kvm_set_gsi_routing(int fd, struct kvm_irq_routing *argument);
int kvm_signal_msi(int fd, struct kvm_msi *argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_set_gsi_routing, KVM_SET_GSI_ROUTING, struct kvm_irq_routing)
KVM_IOCTL_POINTER(kvm_signal_msi, KVM_SIGNAL_MSI, struct kvm_msi)

#endif
