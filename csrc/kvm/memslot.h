/* SPDX-License-Identifier: Apache-2.0 */
/* Memory slots, KVM's own pages in the guest, and zones whose writes are batched. */
#ifndef PYVMM_KVM_MEMSLOT_H
#define PYVMM_KVM_MEMSLOT_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_MEM_LOG_DIRTY_PAGES ...
#define KVM_MEM_READONLY ...
#define KVM_COALESCED_MMIO_PAGE_OFFSET ...

struct kvm_userspace_memory_region {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
};

struct kvm_coalesced_mmio_zone {
	__u64 addr;
	__u32 size;
	union {
		__u32 pad;
		__u32 pio;
	};
};

struct kvm_coalesced_mmio {
	__u64 phys_addr;
	__u32 len;
	union {
		__u32 pad;
		__u32 pio;
	};
	__u8 data[8];
};

struct kvm_coalesced_mmio_ring {
	__u32 first;
	__u32 last;
	struct kvm_coalesced_mmio coalesced_mmio[];
	...;
};

int kvm_set_user_memory_region(int fd, struct kvm_userspace_memory_region *argument);
int kvm_set_tss_addr(int fd, unsigned long argument);
int kvm_set_identity_map_addr(int fd, __u64 *argument);
int kvm_register_coalesced_mmio(int fd, struct kvm_coalesced_mmio_zone *argument);
int kvm_unregister_coalesced_mmio(int fd, struct kvm_coalesced_mmio_zone *argument);
unsigned int kvm_coalesced_take(struct kvm_coalesced_mmio_ring *ring, unsigned int page_size, struct kvm_coalesced_mmio *out, unsigned int limit);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_set_user_memory_region, KVM_SET_USER_MEMORY_REGION,
                  struct kvm_userspace_memory_region)
KVM_IOCTL_NUMBER(kvm_set_tss_addr, KVM_SET_TSS_ADDR, unsigned long)
KVM_IOCTL_POINTER(kvm_set_identity_map_addr, KVM_SET_IDENTITY_MAP_ADDR, __u64)
KVM_IOCTL_POINTER(kvm_register_coalesced_mmio, KVM_REGISTER_COALESCED_MMIO,
                  struct kvm_coalesced_mmio_zone)
KVM_IOCTL_POINTER(kvm_unregister_coalesced_mmio, KVM_UNREGISTER_COALESCED_MMIO,
                  struct kvm_coalesced_mmio_zone)

/*
 * Moves what the ring holds, oldest first, to `out`; says how many. The kernel fills at `last`,
 * this side empties at `first`. Both live in memory shared with the kernel alone, but an index is
 * still never used unreduced.
 */
static inline unsigned int kvm_coalesced_take(struct kvm_coalesced_mmio_ring *ring,
                                              unsigned int page_size,
                                              struct kvm_coalesced_mmio *out, unsigned int limit)
{
	const unsigned int size = (page_size - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio);
	unsigned int first = __atomic_load_n(&ring->first, __ATOMIC_RELAXED) % size;
	unsigned int taken = 0;

	while (taken < limit && first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) % size) {
		out[taken++] = ring->coalesced_mmio[first];
		first = (first + 1) % size;
		__atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
	}
	return taken;
}

#endif
