/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What swap_bypass.c needs, and versions of Linux have under other names or
 * do in other ways. To be included after all other headers.
 */
#ifndef _MM_SWAP_BYPASS_COMPAT_H
#define _MM_SWAP_BYPASS_COMPAT_H

#include <linux/version.h>

/* What a walk of page tables does with the lock of a VMA. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define SWAP_BYPASS_WALK_LOCK	.walk_lock = PGWALK_RDLOCK,
#else
#define SWAP_BYPASS_WALK_LOCK
#endif

/* The entries of a page table, locked; NULL if there is none. */
static inline pte_t *swap_bypass_lock_table(struct mm_struct *mm, pmd_t *pmd,
					    unsigned long addr, spinlock_t **ptl)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	if (pmd_trans_unstable(pmd))
		return NULL;
#endif
	return pte_offset_map_lock(mm, pmd, addr, ptl);
}

/* The entry of a folio that is in the swap cache. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define folio_swap_entry(folio)	((folio)->swap)
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)

/* Takes a slot by SWAP_HAS_CACHE: 0 or an error. */
static inline int swap_bypass_claim(swp_entry_t entry)
{
	return swapcache_prepare(entry, 1);
}

static inline void swap_bypass_unclaim(struct swap_info_struct *si, swp_entry_t entry)
{
	swapcache_clear(si, entry, 1);
}

/* Zeroes are not written when a page is swapped out, but remembered: once. */
static inline bool swap_bypass_take_zeroes(struct swap_info_struct *si, unsigned long offset)
{
	return test_and_clear_bit(offset, si->zeromap);
}

/* Writable as do_swap_page() makes the entry of an exclusive page. */
static inline pte_t swap_bypass_mkwrite(struct vm_fault *vmf, pte_t pte)
{
	struct vm_area_struct *vma = vmf->vma;

	if (!(vma->vm_flags & VM_WRITE) || userfaultfd_pte_wp(vma, pte) ||
	    pte_needs_soft_dirty_wp(vma, pte))
		return pte;
	pte = pte_mkwrite(pte, vma);
	return vmf->flags & FAULT_FLAG_WRITE ? pte_mkdirty(pte) : pte;
}

#else /* before Linux 6.12 */

static inline int swap_bypass_claim(swp_entry_t entry)
{
	return swapcache_prepare(entry);
}

static inline void swap_bypass_unclaim(struct swap_info_struct *si, swp_entry_t entry)
{
	swapcache_clear(si, entry);
}

static inline bool swap_bypass_take_zeroes(struct swap_info_struct *si, unsigned long offset)
{
	return false;
}

static inline pte_t swap_bypass_mkwrite(struct vm_fault *vmf, pte_t pte)
{
	if (vmf->flags & FAULT_FLAG_WRITE)
		pte = maybe_mkwrite(pte_mkdirty(pte), vmf->vma);
	return pte_uffd_wp(pte) ? pte_wrprotect(pte) : pte;
}

#endif /* Linux 6.12 */

#endif /* _MM_SWAP_BYPASS_COMPAT_H */
