// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: anonymous pages of processes move to the aperture,
 * and back to RAM, by what Linux has for memory of devices that it can address.
 * They stay mapped, anonymous, and charged to their memory group.
 *
 * The contents are copied when a page has moved and before it is mapped again. A
 * user of memory who pinned it before that would write to the old page: such a
 * page does not move.
 */

#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/migrate.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/sched.h>

#include "internal.h"
#include "tier.h"

struct symbiotic_moved symbiotic_moved;

/* With the tier's lock. */
static unsigned long symbiotic_from[SYMBIOTIC_BATCH];
static unsigned long symbiotic_to[SYMBIOTIC_BATCH];
static unsigned long symbiotic_cursor;

/* How many of these pages the VMM has nothing against. */
static unsigned long symbiotic_may_move(struct mm_struct *mm, unsigned long count, u32 reason)
{
	struct symbiotic_args args = { .bx = count, .cx = reason };
	u32 mode = symbiotic_aperture_mode();

	if (mode == SYMBIOTIC_SWAP_DIRECT)
		return count;
	if (mode == SYMBIOTIC_SWAP_OFF)
		return 0;
	if (symbiotic_hypercall(SYMBIOTIC_SWAP_MOVE, &args))
		return 0;
	if (args.bx < count)
		symbiotic_moved.declined += count - args.bx;
	return min_t(u64, args.bx, count);
}

static bool symbiotic_is_movable(const struct vm_area_struct *vma)
{
	return !vma->vm_ops && (vma->vm_flags & VM_ACCESS_FLAGS) &&
	       !(vma->vm_flags & (VM_SPECIAL | VM_LOCKED | VM_MERGEABLE | VM_HUGETLB));
}

/* Takes a slot for each page that can go there; false once there are none. */
static bool symbiotic_take_slots(struct migrate_vma *migrate, unsigned long allowed)
{
	unsigned long i;

	for (i = 0; i < migrate->npages && allowed; i++) {
		struct page *page = migrate_pfn_to_page(migrate->src[i]), *slot;

		if (!page || !(migrate->src[i] & MIGRATE_PFN_MIGRATE) ||
		    !folio_test_anon(page_folio(page)) || folio_test_ksm(page_folio(page)))
			continue;
		slot = symbiotic_slot_take();
		if (!slot)
			return false;
		migrate->dst[i] = migrate_pfn(page_to_pfn(slot));
		allowed--;
	}
	return true;
}

/* The pages that have moved are copied: how many, and how many have not. */
static unsigned long symbiotic_copy(unsigned long *src, unsigned long *dst, unsigned long count,
				    u64 *failed)
{
	unsigned long i, moved = 0;

	for (i = 0; i < count; i++) {
		if (!dst[i])
			continue;
		if (src[i] & MIGRATE_PFN_MIGRATE) {
			copy_highpage(migrate_pfn_to_page(dst[i]), migrate_pfn_to_page(src[i]));
			moved++;
		} else {
			(*failed)++;
		}
	}
	return moved;
}

/* One batch: how many moved, or -ENOSPC. */
static long symbiotic_move_batch(struct vm_area_struct *vma, unsigned long start,
				 unsigned long end, u32 reason)
{
	struct migrate_vma migrate = {
		.vma = vma,
		.start = start,
		.end = end,
		.src = symbiotic_from,
		.dst = symbiotic_to,
		.pgmap_owner = &symbiotic_aperture,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	unsigned long allowed = symbiotic_may_move(vma->vm_mm, PHYS_PFN(end - start), reason);
	unsigned long moved;
	bool room;

	if (!allowed)
		return -EPERM;
	if (migrate_vma_setup(&migrate))
		return 0;
	if (!migrate.cpages)
		return 0;
	room = symbiotic_take_slots(&migrate, allowed);
	migrate_vma_pages(&migrate);
	moved = symbiotic_copy(migrate.src, migrate.dst, migrate.npages, &symbiotic_moved.failed);
	migrate_vma_finalize(&migrate);
	symbiotic_moved.in += moved;
	return room || moved ? moved : -ENOSPC;
}

/* The first address from @at on that may be mapped: tables go only with mmap_lock held to write. */
static unsigned long symbiotic_skip_holes(struct mm_struct *mm, unsigned long at,
					  unsigned long end)
{
	while (at < end) {
		pgd_t *pgd = pgd_offset(mm, at);
		p4d_t *p4d;
		pud_t *pud;

		if (pgd_none(READ_ONCE(*pgd))) {
			at = pgd_addr_end(at, end);
			continue;
		}
		p4d = p4d_offset(pgd, at);
		if (p4d_none(READ_ONCE(*p4d))) {
			at = p4d_addr_end(at, end);
			continue;
		}
		pud = pud_offset(p4d, at);
		if (pud_none(READ_ONCE(*pud))) {
			at = pud_addr_end(at, end);
			continue;
		}
		if (!pmd_none(READ_ONCE(*pmd_offset(pud, at))))
			break;
		at = pmd_addr_end(at, end);
	}
	return at;
}

/* Moves pages of one mapping. */
static long symbiotic_move_in(struct vm_area_struct *vma, unsigned long start, unsigned long end,
			      u32 reason)
{
	unsigned long at, next;
	long moved = 0, batch;

	for (at = start;; at = next) {
		at = symbiotic_skip_holes(vma->vm_mm, at, end);
		if (at >= end)
			return moved;
		next = min(ALIGN(at + 1, SYMBIOTIC_BATCH * PAGE_SIZE), end);
		batch = symbiotic_move_batch(vma, at, next, reason);
		if (batch < 0)
			return moved ?: batch;
		moved += batch;
		cond_resched();
	}
}

/**
 * symbiotic_move_range - move anonymous pages of a process to the aperture
 * @mm: whose pages, with mmap_lock held to read, and a user
 * @start: where, page aligned
 * @end: up to where
 * @reason: SYMBIOTIC_MOVE_*
 *
 * Return: how many were moved; -ENOSPC if there is no free slot; -EPERM if the
 * VMM does not want it.
 */
long symbiotic_move_range(struct mm_struct *mm, unsigned long start, unsigned long end, u32 reason)
{
	struct vm_area_struct *vma;
	long total = 0, moved;
	VMA_ITERATOR(iterator, mm, start);

	for_each_vma_range(iterator, vma, end) {
		if (!symbiotic_is_movable(vma))
			continue;
		moved = symbiotic_move_in(vma, max(start, vma->vm_start), min(end, vma->vm_end),
					  reason);
		if (moved < 0)
			return total ?: moved;
		total += moved;
	}
	return total;
}

static struct page *symbiotic_alloc_locked(gfp_t gfp)
{
	struct page *page = alloc_page(gfp);

	if (page)
		lock_page(page);
	return page;
}

/* Pages of one part of the aperture that are in use move to RAM: how many. */
static unsigned long symbiotic_evict_batch(unsigned long slot, unsigned long count, gfp_t gfp,
					   bool *memory)
{
	unsigned long *src = symbiotic_from, *dst = symbiotic_to;
	unsigned long pfn = page_to_pfn(symbiotic_aperture.pages) + slot;
	unsigned long i, moved;

	migrate_device_range(src, pfn, count);
	for (i = 0; i < count; i++) {
		struct page *ram = NULL;

		if (src[i] & MIGRATE_PFN_MIGRATE)
			ram = symbiotic_alloc_locked(gfp);
		else if (page_ref_count(pfn_to_page(pfn + i)))
			symbiotic_moved.stuck++;
		dst[i] = ram ? migrate_pfn(page_to_pfn(ram)) : 0;
		if (src[i] & MIGRATE_PFN_MIGRATE && !ram) {
			symbiotic_moved.stuck++;
			*memory = false;
		}
	}
	migrate_device_pages(src, dst, count);
	moved = symbiotic_copy(src, dst, count, &symbiotic_moved.stuck);
	migrate_device_finalize(src, dst, count);
	symbiotic_moved.out += moved;
	return moved;
}

/**
 * symbiotic_evict - move pages of the aperture to RAM
 * @wanted: how many
 * @gfp: how to allocate
 *
 * Goes once over all pages at most, from where the last call ended, and ends
 * where there is no memory. Pages that are in use elsewhere stay.
 *
 * Return: how many were moved.
 */
unsigned long symbiotic_evict(unsigned long wanted, gfp_t gfp)
{
	unsigned long nr_pages = symbiotic_aperture.nr_pages, seen, moved = 0, count;
	bool memory = true;

	for (seen = 0; seen < nr_pages && moved < wanted && memory; seen += count) {
		if (symbiotic_cursor >= nr_pages)
			symbiotic_cursor = 0;
		count = min(SYMBIOTIC_BATCH - symbiotic_cursor % SYMBIOTIC_BATCH,
			    nr_pages - symbiotic_cursor);
		if (symbiotic_slots_block_used(symbiotic_cursor / SYMBIOTIC_BLOCK)) {
			count = min(count, wanted - moved);
			moved += symbiotic_evict_batch(symbiotic_cursor, count, gfp, &memory);
			cond_resched();
		}
		symbiotic_cursor += count;
	}
	return moved;
}
