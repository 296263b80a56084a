/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages a guest wrote: bitmaps of a slot, and rings of a vCPU. */
#ifndef PYVMM_KVM_DIRTY_H
#define PYVMM_KVM_DIRTY_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
#define KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE ...
#define KVM_DIRTY_LOG_INITIALLY_SET ...
#define KVM_DIRTY_LOG_PAGE_OFFSET ...
#define KVM_DIRTY_GFN_F_DIRTY ...
#define KVM_DIRTY_GFN_F_RESET ...

struct kvm_dirty_log {
	__u32 slot;
	union {
		void *dirty_bitmap;
		__u64 padding2;
	};
	...;
};

struct kvm_clear_dirty_log {
	__u32 slot;
	__u32 num_pages;
	__u64 first_page;
	union {
		void *dirty_bitmap;
		__u64 padding2;
	};
};

struct kvm_dirty_gfn {
	__u32 flags;
	__u32 slot;
	__u64 offset;
};

int kvm_get_dirty_log(int fd, struct kvm_dirty_log *argument);
int kvm_clear_dirty_log(int fd, struct kvm_clear_dirty_log *argument);
int kvm_reset_dirty_rings(int fd);
unsigned int kvm_dirty_ring_take(struct kvm_dirty_gfn *ring, unsigned int entries, unsigned int *next, struct kvm_dirty_gfn *out, unsigned int limit);
/* cffi: end */
/* clang-format on */
#endif

KVM_IOCTL_POINTER(kvm_get_dirty_log, KVM_GET_DIRTY_LOG, struct kvm_dirty_log)
KVM_IOCTL_POINTER(kvm_clear_dirty_log, KVM_CLEAR_DIRTY_LOG, struct kvm_clear_dirty_log)
KVM_IOCTL_BARE(kvm_reset_dirty_rings, KVM_RESET_DIRTY_RINGS)

/*
 * Moves the dirty entries from `*next` on to `out` and marks each for KVM_RESET_DIRTY_RINGS; says
 * how many. `entries` is a power of two. The kernel publishes an entry by its flags: acquire before
 * reading the rest, release when giving it back.
 */
static inline unsigned int kvm_dirty_ring_take(struct kvm_dirty_gfn *ring, unsigned int entries,
                                               unsigned int *next, struct kvm_dirty_gfn *out,
                                               unsigned int limit)
{
	unsigned int taken = 0;

	while (taken < limit) {
		struct kvm_dirty_gfn *entry = &ring[*next & (entries - 1)];
		__u32 flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);

		if ((flags & 3) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		out[taken].flags = flags;
		out[taken].slot = entry->slot;
		out[taken].offset = entry->offset;
		taken++;
		__atomic_store_n(&entry->flags, (__u32)KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		*next += 1;
	}
	return taken;
}

#endif
