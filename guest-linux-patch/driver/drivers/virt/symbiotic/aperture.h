/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _SYMBIOTIC_APERTURE_H
#define _SYMBIOTIC_APERTURE_H

#include <linux/gfp.h>
#include <linux/memremap.h>
#include <linux/mm_types.h>
#include <linux/symbiotic.h>

/* For pages that go back: what is free is used, and nothing reclaimed for it. */
#define SYMBIOTIC_EVICT_GFP	((GFP_HIGHUSER_MOVABLE & ~__GFP_RECLAIM) | __GFP_NOWARN)

/* In symbiotic_aperture.flags. READY: who uses it is set up, and may be asked. */
enum {
	SYMBIOTIC_APERTURE_READY_BIT,
	SYMBIOTIC_APERTURE_EVICTING_BIT,
	SYMBIOTIC_APERTURE_HIBERNATING_BIT,
};

/**
 * struct symbiotic_aperture - the memory of the swap disk
 * @pgmap: it, as memory management knows it
 * @page: what the VMM says
 * @pages: that of slot 0
 * @nr_pages: how many slots there are
 * @flags: SYMBIOTIC_APERTURE_*_BIT
 */
struct symbiotic_aperture {
	struct dev_pagemap pgmap;
	const struct symbiotic_vm_page *page;
	struct page *pages;
	unsigned long nr_pages;
	unsigned long flags;
};

extern struct symbiotic_aperture symbiotic_aperture;

bool symbiotic_aperture_offered(const struct symbiotic_vm_page *page);
int symbiotic_aperture_map(const struct symbiotic_vm_page *page,
			   const struct dev_pagemap_ops *ops);
void symbiotic_aperture_unmap(void);
u32 symbiotic_aperture_mode(void);
int symbiotic_aperture_attach(u64 flags);
void symbiotic_aperture_detach(void);
void symbiotic_aperture_clean(struct page *page);

static inline bool symbiotic_aperture_has(int bit)
{
	return test_bit(bit, &symbiotic_aperture.flags);
}

#endif /* _SYMBIOTIC_APERTURE_H */
