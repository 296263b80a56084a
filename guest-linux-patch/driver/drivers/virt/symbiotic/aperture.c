// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: the memory of the swap disk, which the VMM shows
 * beyond the guest's RAM (the aperture), becomes memory that page tables of
 * user space may map.
 */

#define pr_fmt(fmt) "symbiotic: " fmt

#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/numa.h>
#include <linux/processor.h>

#include "aperture.h"
#include "internal.h"
#include "compat.h"

/* Bytes of the extension of the VM's page that are needed here. */
#define SYMBIOTIC_SWAP_EXT_SIZE	0x40

struct symbiotic_aperture symbiotic_aperture;

/* Whether the VMM has a swap disk for such use. */
bool symbiotic_aperture_offered(const struct symbiotic_vm_page *page)
{
	return (cpuid_edx(SYMBIOTIC_CPUID_LEAF) & SYMBIOTIC_FEATURE_SWAPBYPASS) &&
	       page->ext_size >= SYMBIOTIC_SWAP_EXT_SIZE && page->aperture_size;
}

static bool symbiotic_aperture_plausible(const struct symbiotic_vm_page *page)
{
	u64 room = page->aperture_room, base = page->aperture_base, size = page->aperture_size;

	return IS_ALIGNED(room | base | size, SUBSECTION_SIZE) && room && size &&
	       room <= base && base + size > base &&
	       base + size <= 1ULL << boot_cpu_data.x86_phys_bits;
}

/* The struct pages go into the room, so that the guest's RAM is none the less. */
static int symbiotic_aperture_remap(struct dev_pagemap *pgmap, u64 start, u64 length, u64 room)
{
	void *address;

	if (!request_mem_region(start, length, "symbiotic swap"))
		return -EBUSY;
	pgmap->type = MEMORY_DEVICE_COHERENT;
	pgmap->range.start = start;
	pgmap->range.end = start + length - 1;
	pgmap->nr_range = 1;
	pgmap->flags = PGMAP_ALTMAP_VALID;
	pgmap->altmap.base_pfn = PHYS_PFN(start);
	pgmap->altmap.free = PHYS_PFN(room);
	address = memremap_pages(pgmap, numa_mem_id());
	if (IS_ERR(address)) {
		release_mem_region(start, length);
		return PTR_ERR(address);
	}
	return 0;
}

/* Gives each slot a struct page, in no use so far: 0 or an error. */
int symbiotic_aperture_map(const struct symbiotic_vm_page *page, const struct dev_pagemap_ops *ops)
{
	struct symbiotic_aperture *aperture = &symbiotic_aperture;
	u64 room = page->aperture_room;
	int error;

	if (!symbiotic_aperture_plausible(page))
		return -EINVAL;
	aperture->pgmap.ops = ops;
	aperture->pgmap.owner = aperture;
	error = symbiotic_aperture_remap(&aperture->pgmap, page->aperture_base - room,
					 room + page->aperture_size, room);
	if (error)
		return error;
	aperture->page = page;
	aperture->pages = pfn_to_page(PHYS_PFN(page->aperture_base));
	aperture->nr_pages = PHYS_PFN(page->aperture_size);
	return 0;
}

/* Undoes it. No page of it may be in use. */
void symbiotic_aperture_unmap(void)
{
	struct symbiotic_aperture *aperture = &symbiotic_aperture;
	struct range range = aperture->pgmap.range;

	memunmap_pages(&aperture->pgmap);
	release_mem_region(range.start, range_len(&range));
}

/* SYMBIOTIC_SWAP_OFF and so on: what the VMM wants now. Any context. */
u32 symbiotic_aperture_mode(void)
{
	u32 mode;

	if (symbiotic_aperture_has(SYMBIOTIC_APERTURE_HIBERNATING_BIT))
		return SYMBIOTIC_SWAP_OFF;
	mode = READ_ONCE(symbiotic_aperture.page->swap_mode);
	return mode <= SYMBIOTIC_SWAP_DIRECT ? mode : SYMBIOTIC_SWAP_OFF;
}

/* Tells the VMM that the aperture is used; again, after a suspend. */
int symbiotic_aperture_attach(u64 flags)
{
	struct symbiotic_args args = {
		.bx = symbiotic_aperture.page->aperture_base,
		.cx = symbiotic_aperture.page->aperture_size,
		.dx = flags,
	};
	int error = symbiotic_hypercall(SYMBIOTIC_SWAP_ATTACH, &args);

	return error == -EPERM && args.bx == SYMBIOTIC_SWAP_HOLDS_DATA ? -EBUSY : error;
}

void symbiotic_aperture_detach(void)
{
	struct symbiotic_args args = { };

	symbiotic_hypercall(SYMBIOTIC_SWAP_DETACH, &args);
}

/* Clears the flags that the page allocator clears when it frees a page. */
void symbiotic_aperture_clean(struct page *page)
{
	symbiotic_page_flags(page) &= ~PAGE_FLAGS_CHECK_AT_PREP | BIT(PG_reserved);
	page->private = 0;
}
