/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What this driver needs, and versions of Linux have under other names, in
 * other files, or not for modules. To be included after all other headers.
 */
#ifndef _SYMBIOTIC_COMPAT_H
#define _SYMBIOTIC_COMPAT_H

#include <linux/version.h>

/*
 * UNTRAIN_RET calls write_ibpb() on CPUs that have to forget all indirect
 * branches, and that is exported to KVM alone. What it calls in older kernels,
 * entry_ibpb(), any module may.
 */
#if defined(MODULE) && LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define SYMBIOTIC_OWN_IBPB
#endif

#ifndef __ASSEMBLER__

#if __has_include(<asm/cpuid/api.h>)
#include <asm/cpuid/api.h>
#endif
#if __has_include(<linux/leafops.h>)
#include <linux/leafops.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
#define wrmsrq_safe	wrmsrl_safe
#endif

/* struct page has its flags in a struct of their own. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
#define symbiotic_page_flags(page)	((page)->flags.f)
#else
#define symbiotic_page_flags(page)	((page)->flags)
#endif

/* Pages of devices may be larger than one: they are folios, and have their size when taken. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
#define SYMBIOTIC_DEVICE_FOLIOS
#endif

/* Whether a page table entry that is not present is of a swap area. */
#if __has_include(<linux/leafops.h>)
#define symbiotic_is_swapped(pte)	softleaf_is_swap(softleaf_from_pte(pte))
#else
#define symbiotic_is_swapped(pte)	(!non_swap_entry(pte_to_swp_entry(pte)))
#endif

#endif /* __ASSEMBLER__ */

#endif /* _SYMBIOTIC_COMPAT_H */
