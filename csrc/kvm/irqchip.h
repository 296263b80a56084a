/* SPDX-License-Identifier: Apache-2.0 */
/* The interrupt controllers in the kernel: the two PICs, the I/O APIC and the local APICs. */
#ifndef PYVMM_KVM_IRQCHIP_H
#define PYVMM_KVM_IRQCHIP_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_IRQCHIP_PIC_MASTER ...
#define KVM_IRQCHIP_PIC_SLAVE ...
#define KVM_IRQCHIP_IOAPIC ...
#define KVM_NR_IRQCHIPS ...
#define KVM_IOAPIC_NUM_PINS ...
#define KVM_APIC_REG_SIZE ...

struct kvm_pic_state {
	__u8 last_irr;
	__u8 irr;
	__u8 imr;
	__u8 isr;
	__u8 priority_add;
	__u8 irq_base;
	__u8 read_reg_select;
	__u8 poll;
	__u8 special_mask;
	__u8 init_state;
	__u8 auto_eoi;
	__u8 rotate_on_auto_eoi;
	__u8 special_fully_nested_mode;
	__u8 init4;
	__u8 elcr;
	__u8 elcr_mask;
};

struct kvm_ioapic_state {
	__u64 base_address;
	__u32 ioregsel;
	__u32 id;
	__u32 irr;
	__u32 pad;
	union {
		__u64 bits;
		struct {
			__u8 vector;
			__u8 delivery_mode:3;
			__u8 dest_mode:1;
			__u8 delivery_status:1;
			__u8 polarity:1;
			__u8 remote_irr:1;
			__u8 trig_mode:1;
			__u8 mask:1;
			__u8 reserve:7;
			__u8 reserved[4];
			__u8 dest_id;
		} fields;
	} redirtbl[24];
};

struct kvm_irqchip {
	__u32 chip_id;
	__u32 pad;
	union {
		char dummy[512];
		struct kvm_pic_state pic;
		struct kvm_ioapic_state ioapic;
	} chip;
};

struct kvm_irq_level {
	union {
		__u32 irq;
		__s32 status;
	};
	__u32 level;
};

struct kvm_lapic_state {
	char regs[1024];
};

int kvm_create_irqchip(int fd);
int kvm_get_irqchip(int fd, struct kvm_irqchip *argument);
int kvm_set_irqchip(int fd, struct kvm_irqchip *argument);
int kvm_irq_line(int fd, struct kvm_irq_level *argument);
int kvm_irq_line_status(int fd, struct kvm_irq_level *argument);
int kvm_get_lapic(int fd, struct kvm_lapic_state *argument);
int kvm_set_lapic(int fd, struct kvm_lapic_state *argument);
int kvm_set_boot_cpu_id(int fd, unsigned long argument);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_BARE(kvm_create_irqchip, KVM_CREATE_IRQCHIP)
KVM_IOCTL_POINTER(kvm_get_irqchip, KVM_GET_IRQCHIP, struct kvm_irqchip)
KVM_IOCTL_POINTER(kvm_set_irqchip, KVM_SET_IRQCHIP, struct kvm_irqchip)
KVM_IOCTL_POINTER(kvm_irq_line, KVM_IRQ_LINE, struct kvm_irq_level)
KVM_IOCTL_POINTER(kvm_irq_line_status, KVM_IRQ_LINE_STATUS, struct kvm_irq_level)
KVM_IOCTL_POINTER(kvm_get_lapic, KVM_GET_LAPIC, struct kvm_lapic_state)
KVM_IOCTL_POINTER(kvm_set_lapic, KVM_SET_LAPIC, struct kvm_lapic_state)
KVM_IOCTL_NUMBER(kvm_set_boot_cpu_id, KVM_SET_BOOT_CPU_ID, unsigned long)

#endif
