/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/hold.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "machine/vcpu.h"

/* Older headers lack it. */
#ifndef KVM_GUESTDBG_BLOCKIRQ
#define KVM_GUESTDBG_BLOCKIRQ 0x00100000
#endif

void hold_interrupts(struct hold *hold, struct vcpu *vcpu, bool on)
{
	struct kvm_guest_debug debug = {
	        .control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ : 0,
	};

	if (!hold->possible || hold->on == on)
		return;
	if (!ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug))
		hold->on = on;
}
