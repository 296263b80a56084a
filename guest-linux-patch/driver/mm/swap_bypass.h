/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Swap areas whose contents the CPU can address: what the rest of memory
 * management calls. Part of swap.h.
 */
#ifndef _MM_SWAP_BYPASS_H
#define _MM_SWAP_BYPASS_H

/* Whose page table entry it is when an adopted page is mapped. */
enum swap_bypass_result {
	SWAP_BYPASS_MAP,	/* yet to be written */
	SWAP_BYPASS_MAPPED,	/* written */
	SWAP_BYPASS_DECLINED,	/* not to be written: read the page */
};

/*
 * In vm_fault.flags, beside enum fault_flag: a page that is swapped in is for
 * moving, and no use where it lies.
 */
#define FAULT_FLAG_NO_BYPASS	((enum fault_flag)BIT(30))

#ifdef CONFIG_SWAP_BYPASS

DECLARE_STATIC_KEY_FALSE(swap_bypass_key);

struct folio *__swap_bypass_get(struct swap_info_struct *si, swp_entry_t entry,
				struct vm_fault *vmf);
enum swap_bypass_result swap_bypass_map(struct vm_fault *vmf, struct folio *folio);
void swap_bypass_lost(struct folio *folio);
bool __swap_bypass_adopted(struct swap_info_struct *si, unsigned long offset);
bool __swap_bypass_folio(struct folio *folio);
int __swap_bypass_charge(struct folio *folio, struct folio *ram, gfp_t gfp);
bool __swap_bypass_copies(struct swap_info_struct *si);
bool __swap_bypass_write(struct swap_info_struct *si, struct folio *folio);
bool __swap_bypass_read(struct swap_info_struct *si, struct folio *folio);
int __swap_bypass_drain(struct swap_info_struct *si);
int __swap_bypass_fetch(struct vm_area_struct *vma, unsigned long start, unsigned long end);
void swap_bypass_swapon(struct swap_info_struct *si);
void swap_bypass_swapoff(struct swap_info_struct *si);

static inline bool swap_bypass_area(struct swap_info_struct *si)
{
	return static_branch_unlikely(&swap_bypass_key) && si->bypass;
}

static inline struct folio *swap_bypass_get(struct swap_info_struct *si, swp_entry_t entry,
					    struct vm_fault *vmf)
{
	return swap_bypass_area(si) ? __swap_bypass_get(si, entry, vmf) : NULL;
}

static inline bool swap_bypass_adopted(struct swap_info_struct *si, unsigned long offset)
{
	return swap_bypass_area(si) && __swap_bypass_adopted(si, offset);
}

static inline bool swap_bypass_folio(struct folio *folio)
{
	return static_branch_unlikely(&swap_bypass_key) && __swap_bypass_folio(folio);
}

static inline int swap_bypass_charge(struct folio *folio, struct folio *ram, gfp_t gfp)
{
	return swap_bypass_folio(folio) ? __swap_bypass_charge(folio, ram, gfp) : 0;
}

static inline bool swap_bypass_copies(struct swap_info_struct *si)
{
	return swap_bypass_area(si) && __swap_bypass_copies(si);
}

static inline bool swap_bypass_write(struct swap_info_struct *si, struct folio *folio)
{
	return swap_bypass_area(si) && __swap_bypass_write(si, folio);
}

static inline bool swap_bypass_read(struct swap_info_struct *si, struct folio *folio)
{
	return swap_bypass_area(si) && __swap_bypass_read(si, folio);
}

static inline int swap_bypass_drain(struct swap_info_struct *si)
{
	return swap_bypass_area(si) ? __swap_bypass_drain(si) : 0;
}

static inline int swap_bypass_fetch(struct vm_area_struct *vma, unsigned long start,
				    unsigned long end)
{
	if (!static_branch_unlikely(&swap_bypass_key))
		return 0;
	return __swap_bypass_fetch(vma, start, end);
}

#else /* CONFIG_SWAP_BYPASS */

static inline bool swap_bypass_area(struct swap_info_struct *si)
{
	return false;
}

static inline struct folio *swap_bypass_get(struct swap_info_struct *si, swp_entry_t entry,
					    struct vm_fault *vmf)
{
	return NULL;
}

static inline enum swap_bypass_result swap_bypass_map(struct vm_fault *vmf, struct folio *folio)
{
	return SWAP_BYPASS_MAP;
}

static inline void swap_bypass_lost(struct folio *folio)
{
}

static inline bool swap_bypass_adopted(struct swap_info_struct *si, unsigned long offset)
{
	return false;
}

static inline bool swap_bypass_folio(struct folio *folio)
{
	return false;
}

static inline int swap_bypass_charge(struct folio *folio, struct folio *ram, gfp_t gfp)
{
	return 0;
}

static inline bool swap_bypass_copies(struct swap_info_struct *si)
{
	return false;
}

static inline bool swap_bypass_write(struct swap_info_struct *si, struct folio *folio)
{
	return false;
}

static inline bool swap_bypass_read(struct swap_info_struct *si, struct folio *folio)
{
	return false;
}

static inline int swap_bypass_drain(struct swap_info_struct *si)
{
	return 0;
}

static inline int swap_bypass_fetch(struct vm_area_struct *vma, unsigned long start,
				    unsigned long end)
{
	return 0;
}

static inline void swap_bypass_swapon(struct swap_info_struct *si)
{
}

static inline void swap_bypass_swapoff(struct swap_info_struct *si)
{
}

#endif /* CONFIG_SWAP_BYPASS */

#endif /* _MM_SWAP_BYPASS_H */
