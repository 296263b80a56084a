// SPDX-License-Identifier: GPL-2.0
/*
 * Swap areas whose contents the CPU can address.
 *
 * A provider registers memory of the type MEMORY_DEVICE_COHERENT, which page
 * tables of user space may map as anonymous memory, and says which block
 * device has the same contents. A fault on a page that was swapped out to that
 * device then takes ("adopts") the page of the area itself: there is nothing
 * to allocate and nothing to read.
 *
 * The slot of an adopted page stays in use, without a reference count but with
 * SWAP_HAS_CACHE set, so that nobody reads it or allocates it anew. There is
 * no folio for it in the swap cache: it is not on its way out or in. When the
 * last reference to the page goes, which is after the TLBs were flushed,
 * SWAP_HAS_CACHE is cleared and the slot is free. An adopted page is not on
 * the LRU, and reclaim never sees it; it remains charged as swap.
 *
 * A slot is adopted by its only user (the count is 1), so an adopted page
 * begins as an exclusive anonymous one and from then on is like any other:
 * fork() may share it, and a write to it may then copy it.
 */

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/highmem.h>
#include <linux/interrupt.h>
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pagewalk.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/swap_bypass.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>

#include "internal.h"
#include "swap.h"
#include "swap_bypass_compat.h"

/* How often, and how long, swapoff waits for pages that are pinned. */
#define SWAP_BYPASS_TRIES	50
#define SWAP_BYPASS_WAIT	(HZ / 50 + 1)

/* For who wants pages in RAM: some reclaim, and no one killed for it. */
#define SWAP_BYPASS_FETCH_GFP	(GFP_HIGHUSER_MOVABLE | __GFP_NORETRY | __GFP_NOWARN)

/* How long a page that could not be moved is left alone. */
#define SWAP_BYPASS_STUCK	(10 * HZ)

DEFINE_STATIC_KEY_FALSE(swap_bypass_key);

/* There is one provider. Set once, read at swapon. */
static struct swap_bypass *swap_bypass_provider;

#define swap_bypass_count(bypass, event)	this_cpu_inc((bypass)->stats->event)

static void swap_bypass_free_work(struct work_struct *work);

/**
 * swap_bypass_register - offer memory that is a swap area
 * @bypass: with @pages, @nr_pages and @ops filled in; it stays for good
 *
 * Swap areas that are in use already are not affected.
 *
 * Return: 0, -EBUSY if there is a provider already, or -ENOMEM.
 */
int swap_bypass_register(struct swap_bypass *bypass)
{
	bypass->stats = alloc_percpu(struct swap_bypass_stats);
	if (!bypass->stats)
		return -ENOMEM;
	atomic_long_set(&bypass->adopted, 0);
	init_llist_head(&bypass->freed);
	INIT_WORK(&bypass->free_work, swap_bypass_free_work);
	mutex_init(&bypass->evicting);
	xa_init(&bypass->stuck);
	bypass->nr_stuck = 0;
	bypass->stuck_until = jiffies;
	if (cmpxchg(&swap_bypass_provider, NULL, bypass)) {
		free_percpu(bypass->stats);
		return -EBUSY;
	}
	static_branch_enable(&swap_bypass_key);
	return 0;
}

/* A new swap area, before it is used: is it one that can be bypassed? */
void swap_bypass_swapon(struct swap_info_struct *si)
{
	struct swap_bypass *bypass = READ_ONCE(swap_bypass_provider);

	/* A file may be anywhere on its disk, and a partition is not all of it. */
	if (!bypass || bypass->si || !(si->flags & SWP_BLKDEV) || bdev_is_partition(si->bdev))
		return;
	if (si->max > bypass->nr_pages || !bypass->ops->match(bypass, si->bdev))
		return;
	WRITE_ONCE(bypass->si, si);
	si->bypass = bypass;
}

/* The area goes away; none of its slots is in use any more. */
void swap_bypass_swapoff(struct swap_info_struct *si)
{
	struct swap_bypass *bypass = si->bypass;

	if (!bypass)
		return;
	flush_work(&bypass->free_work);
	si->bypass = NULL;
	WRITE_ONCE(bypass->si, NULL);
}

static struct swap_bypass *swap_bypass_of(struct folio *folio)
{
	struct swap_bypass *bypass = READ_ONCE(swap_bypass_provider);
	unsigned long pfn = folio_pfn(folio);

	if (!bypass || pfn < page_to_pfn(bypass->pages))
		return NULL;
	return pfn - page_to_pfn(bypass->pages) < bypass->nr_pages ? bypass : NULL;
}

static unsigned long swap_bypass_offset(struct swap_bypass *bypass, struct page *page)
{
	return page_to_pfn(page) - page_to_pfn(bypass->pages);
}

static swp_entry_t swap_bypass_entry(struct swap_bypass *bypass, struct page *page)
{
	return swp_entry(bypass->si->type, swap_bypass_offset(bypass, page));
}

/* Whether somebody has, or is about to have, the page of a slot as it lies. */
bool __swap_bypass_adopted(struct swap_info_struct *si, unsigned long offset)
{
	return page_ref_count(si->bypass->pages + offset);
}

/* Whether a folio is an adopted one. */
bool __swap_bypass_folio(struct folio *folio)
{
	return folio_is_device_coherent(folio) && swap_bypass_of(folio);
}

/* Somebody else is taking the page: nothing to do but to look again later. */
static void swap_bypass_wait(struct folio *folio)
{
	if (!folio_try_get(folio)) {
		schedule_timeout_uninterruptible(1);
		return;
	}
	folio_wait_locked(folio);
	folio_put(folio);
}

static void swap_bypass_init_page(struct swap_bypass *bypass, struct page *page)
{
	struct folio *folio;

	zone_device_page_init(page);
	folio = page_folio(page);
	__folio_set_swapbacked(folio);
	__folio_mark_uptodate(folio);
}

static void swap_bypass_fill(struct swap_info_struct *si, unsigned long offset)
{
	if (!swap_bypass_take_zeroes(si, offset))
		return;
	clear_highpage(si->bypass->pages + offset);
	swap_bypass_count(si->bypass, zeroed);
}

/*
 * Whether a fault may take the page as it lies. Page tables of files, and what
 * builds huge pages from them, know no pages of devices. khugepaged, which has
 * no mm of its own, wants pages to move, not to use. KSM and mlock() know pages
 * of the LRU alone.
 */
static bool swap_bypass_suits(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;

	return vma_is_anonymous(vma) && !(vma->vm_flags & (VM_LOCKED | VM_MERGEABLE)) &&
	       !(vmf->flags & FAULT_FLAG_NO_BYPASS) &&
	       (vma->vm_mm == current->mm || vmf->flags & FAULT_FLAG_REMOTE);
}

/*
 * Whether pages are adopted now. If so, one more is counted already: who saw to
 * it that no more are adopted, and waited for RCU, knows of all.
 */
static bool swap_bypass_begin(struct swap_info_struct *si, struct page *page)
{
	struct swap_bypass *bypass = si->bypass;
	bool on;

	rcu_read_lock();
	on = bypass->ops->mode(bypass) != SWAP_BYPASS_OFF &&
	     READ_ONCE(si->flags) & SWP_WRITEOK && !PageHWPoison(page);
	if (on)
		atomic_long_inc(&bypass->adopted);
	rcu_read_unlock();
	if (!on)
		swap_bypass_count(bypass, off);
	return on;
}

/* Not adopted after all, since the entry has more users than one. */
static struct folio *swap_bypass_leave_shared(struct swap_bypass *bypass)
{
	atomic_long_dec(&bypass->adopted);
	swap_bypass_count(bypass, shared);
	return NULL;
}

/*
 * The page of a swap entry that is not in the swap cache: locked, with a
 * reference, and the slot not to be had by anybody else. NULL if it is to be
 * read; an error if the fault is to be taken again.
 */
struct folio *__swap_bypass_get(struct swap_info_struct *si, swp_entry_t entry,
				struct vm_fault *vmf)
{
	struct swap_bypass *bypass = si->bypass;
	unsigned long offset = swp_offset(entry);
	struct page *page = bypass->pages + offset;

	if (!swap_bypass_suits(vmf))
		return NULL;
	swap_bypass_count(bypass, offered);
	if (!swap_bypass_begin(si, page))
		return NULL;
	if (__swap_count(entry) != 1)
		return swap_bypass_leave_shared(bypass);
	if (swap_bypass_claim(entry)) {
		atomic_long_dec(&bypass->adopted);
		swap_bypass_wait(page_folio(page));
		return ERR_PTR(-EAGAIN);
	}
	/*
	 * Until the claim the slot could be freed, and given to a page that has
	 * more users, as one of KSM: the page table would show the same entry.
	 */
	if (__swap_count(entry) != 1) {
		swap_bypass_unclaim(si, entry);
		return swap_bypass_leave_shared(bypass);
	}
	swap_bypass_init_page(bypass, page);
	swap_bypass_fill(si, offset);
	return page_folio(page);
}

static pte_t swap_bypass_pte(struct vm_fault *vmf, struct page *page)
{
	pte_t pte = mk_pte(page, vmf->vma->vm_page_prot);

	if (pte_swp_soft_dirty(vmf->orig_pte))
		pte = pte_mksoft_dirty(pte);
	if (pte_swp_uffd_wp(vmf->orig_pte))
		pte = pte_mkuffd_wp(pte);
	return swap_bypass_mkwrite(vmf, pte);
}

/*
 * With the page table locked and its entry unchanged: who maps the page? The
 * provider's entry is the one that do_swap_page() would write. User space may
 * use it from then on; the kernel looks at it with the page table locked, or
 * in get_user_pages_fast(), which has no use for a folio without a mapping.
 */
enum swap_bypass_result swap_bypass_map(struct vm_fault *vmf, struct folio *folio)
{
	struct swap_bypass *bypass = swap_bypass_of(folio);
	struct page *page = folio_page(folio, 0);

	if (bypass->ops->mode(bypass) != SWAP_BYPASS_ASK) {
		swap_bypass_count(bypass, adopted);
		return SWAP_BYPASS_MAP;
	}
	if (!bypass->ops->map(bypass, vmf, swap_bypass_offset(bypass, page),
			      swap_bypass_pte(vmf, page))) {
		swap_bypass_count(bypass, declined);
		return SWAP_BYPASS_DECLINED;
	}
	swap_bypass_count(bypass, adopted);
	swap_bypass_count(bypass, asked);
	return SWAP_BYPASS_MAPPED;
}

/* The fault was handled by somebody else meanwhile. */
void swap_bypass_lost(struct folio *folio)
{
	struct swap_bypass *bypass = swap_bypass_of(folio);

	swap_bypass_count(bypass, lost);
}

static void swap_bypass_release(struct swap_bypass *bypass, struct page *page)
{
	struct swap_info_struct *si = bypass->si;
	swp_entry_t entry = swap_bypass_entry(bypass, page);

	/* What a page of the LRU would lose in the page allocator. */
	page->flags &= ~PAGE_FLAGS_CHECK_AT_PREP | BIT(PG_reserved);
	page->private = 0;
	swap_bypass_count(bypass, freed);
	atomic_long_dec(&bypass->adopted);
	/* From here on it can be adopted again, or the area go away. */
	swap_bypass_unclaim(si, entry);
}

static void swap_bypass_free_work(struct work_struct *work)
{
	struct swap_bypass *bypass = container_of(work, struct swap_bypass, free_work);
	struct llist_node *node = llist_del_all(&bypass->freed);

	while (node) {
		/* The node lies in the page, which is in use again at once. */
		void **data = (void **)node;
		struct page *page = container_of(data, struct page, zone_device_data);

		node = node->next;
		swap_bypass_release(bypass, page);
		cond_resched();
	}
}

/**
 * swap_bypass_page_free - the last reference to an adopted page is gone
 * @bypass: whose page it is
 * @page: the page
 *
 * For the provider's dev_pagemap_ops. Any context. The locks of the swap
 * allocator are not for interrupts, nor for those who keep softirqs away and so
 * may hold locks that softirqs take: they leave the slot to a worker.
 */
void swap_bypass_page_free(struct swap_bypass *bypass, struct page *page)
{
	if (!in_interrupt() && !irqs_disabled()) {
		swap_bypass_release(bypass, page);
		return;
	}
	if (llist_add((struct llist_node *)&page->zone_device_data, &bypass->freed))
		schedule_work(&bypass->free_work);
}

/*
 * Charges RAM that an adopted folio is to be moved to. It was charged as swap
 * only; that charge ends with the slot.
 */
int __swap_bypass_charge(struct folio *folio, struct folio *ram, gfp_t gfp)
{
	struct swap_bypass *bypass = swap_bypass_of(folio);

	return mem_cgroup_swapin_charge_folio(ram, NULL, gfp,
					      swap_bypass_entry(bypass, folio_page(folio, 0)));
}

/*
 * Moves a page to RAM, if it is adopted: 0; -ENOENT if it is not; -EBUSY if
 * somebody uses it; -EDQUOT if its cgroup may have no more RAM; -ENOMEM.
 */
static int swap_bypass_move(struct swap_bypass *bypass, struct page *page, gfp_t gfp)
{
	struct folio *folio = page_folio(page), *ram;
	int error;

	/* Keeps the slot, and with it the area: who is charged is known. */
	if (!folio_try_get(folio))
		return -ENOENT;
	ram = folio_alloc(gfp, 0);
	if (!ram)
		error = -ENOMEM;
	else if (__swap_bypass_charge(folio, ram, gfp))
		error = -EDQUOT;
	else
		error = 0;
	/* Either way the reference is gone. */
	if (error)
		folio_put(folio);
	else
		error = migrate_device_coherent_to(folio, ram);
	if (ram)
		folio_put(ram);
	if (error)
		swap_bypass_count(bypass, stuck);
	else
		swap_bypass_count(bypass, moved);
	return error;
}

/* A page that cannot be moved now: not to be tried by each pass. */
static void swap_bypass_remember(struct swap_bypass *bypass, unsigned long offset)
{
	if (!xa_err(xa_store(&bypass->stuck, offset, xa_mk_value(0), GFP_KERNEL | __GFP_NOWARN)))
		bypass->nr_stuck++;
}

static void swap_bypass_forget(struct swap_bypass *bypass)
{
	xa_destroy(&bypass->stuck);
	bypass->nr_stuck = 0;
	bypass->stuck_until = jiffies + SWAP_BYPASS_STUCK;
}

/* Goes over all pages once at most, from where the last pass ended. */
static int swap_bypass_pass(struct swap_bypass *bypass, unsigned long nr_pages, gfp_t gfp)
{
	unsigned long i, moved = 0;
	int error, result = 0;

	for (i = 0; i < bypass->nr_pages && moved < nr_pages; i++) {
		unsigned long offset = bypass->cursor;

		if (!atomic_long_read(&bypass->adopted))
			break;
		bypass->cursor = offset + 1 < bypass->nr_pages ? offset + 1 : 0;
		if (!(i % SWAP_CLUSTER_MAX))
			cond_resched();
		if (signal_pending(current))
			return -EINTR;
		if (!page_ref_count(bypass->pages + offset))
			continue;
		error = -EBUSY;
		if (!xa_load(&bypass->stuck, offset)) {
			error = swap_bypass_move(bypass, bypass->pages + offset, gfp);
			if (error == -EBUSY || error == -EDQUOT)
				swap_bypass_remember(bypass, offset);
		}
		if (error == -ENOMEM)
			return error;
		if (!error)
			moved++;
		else if (error != -ENOENT && result != -EDQUOT)
			result = error;
	}
	return result;
}

/**
 * swap_bypass_evict - move adopted pages to RAM
 * @bypass: whose pages
 * @nr_pages: how many at most
 * @gfp: how to allocate
 *
 * Goes once over all pages at most, from where the last call ended. A page that
 * cannot be moved holds up no other one, and is not tried again for some
 * seconds. May sleep.
 *
 * Return: 0; -EBUSY if some pages are in use, or -EDQUOT if the cgroups of some
 * may have no more RAM, so that these stayed; -ENOMEM or -EINTR, and then the
 * rest was not looked at.
 */
int swap_bypass_evict(struct swap_bypass *bypass, unsigned long nr_pages, gfp_t gfp)
{
	int error = -EBUSY;

	mutex_lock(&bypass->evicting);
	if (time_after(jiffies, bypass->stuck_until))
		swap_bypass_forget(bypass);
	if (!bypass->nr_stuck || bypass->nr_stuck < atomic_long_read(&bypass->adopted))
		error = swap_bypass_pass(bypass, nr_pages, gfp);
	mutex_unlock(&bypass->evicting);
	return error;
}
EXPORT_SYMBOL_GPL(swap_bypass_evict);

/* Moves all pages to RAM, those as well that could not be moved before. */
static int swap_bypass_evict_again(struct swap_bypass *bypass)
{
	int error;

	/* They may hold the last reference to a page that was locked. */
	lru_add_drain_all();
	if (mutex_lock_interruptible(&bypass->evicting))
		return -EINTR;
	swap_bypass_forget(bypass);
	error = swap_bypass_pass(bypass, ULONG_MAX, GFP_HIGHUSER_MOVABLE);
	swap_bypass_forget(bypass);
	mutex_unlock(&bypass->evicting);
	flush_work(&bypass->free_work);
	return error;
}

/**
 * swap_bypass_evict_all - move all adopted pages to RAM
 * @bypass: whose pages
 *
 * For the end of their use, of which the caller has seen to it that no page is
 * adopted any more but by faults that are under way. Waits for a second for
 * pages that are in use.
 *
 * Return: 0; -EBUSY if some are in use still; -ENOMEM, or -EINTR.
 */
int swap_bypass_evict_all(struct swap_bypass *bypass)
{
	int tries, error;

	for (tries = 0; tries < SWAP_BYPASS_TRIES; tries++) {
		error = swap_bypass_evict_again(bypass);
		if (error && error != -EBUSY)
			return error == -EDQUOT ? -ENOMEM : error;
		if (!atomic_long_read(&bypass->adopted))
			return 0;
		schedule_timeout_interruptible(SWAP_BYPASS_WAIT);
	}
	return -EBUSY;
}

/* For swapoff, which may say it again: some faults may come after. */
int __swap_bypass_drain(struct swap_info_struct *si)
{
	return swap_bypass_evict_all(si->bypass);
}

/**
 * struct swap_bypass_found - adopted pages of a range
 * @bypass: whose pages
 * @offsets: of some, which may not be mapped there any more
 * @nr: how many these are
 * @next: where to go on
 */
struct swap_bypass_found {
	struct swap_bypass *bypass;
	unsigned long offsets[SWAP_CLUSTER_MAX];
	unsigned int nr;
	unsigned long next;
};

/* Notes a page that is adopted. Whether there was room for it. */
static bool swap_bypass_note(struct swap_bypass_found *found, unsigned long pfn,
			     unsigned long addr)
{
	unsigned long offset = pfn - page_to_pfn(found->bypass->pages);

	if (offset >= found->bypass->nr_pages)
		return true;
	if (found->nr == ARRAY_SIZE(found->offsets)) {
		found->next = addr;
		return false;
	}
	found->offsets[found->nr++] = offset;
	return true;
}

static int swap_bypass_find(pmd_t *pmd, unsigned long addr, unsigned long end,
			    struct mm_walk *walk)
{
	struct swap_bypass_found *found = walk->private;
	pte_t *start, *pte, entry;
	spinlock_t *ptl;	/* of the page table */
	bool room = true;

	/* What is mapped by a huge page is in RAM. */
	start = swap_bypass_lock_table(walk->mm, pmd, addr, &ptl);
	if (!start)
		return 0;
	for (pte = start; addr != end && room; pte++, addr += PAGE_SIZE) {
		entry = ptep_get(pte);
		if (pte_present(entry))
			room = swap_bypass_note(found, pte_pfn(entry), addr);
	}
	pte_unmap_unlock(start, ptl);
	cond_resched();
	return !room;
}

static const struct mm_walk_ops swap_bypass_find_ops = {
	.pmd_entry = swap_bypass_find,
	SWAP_BYPASS_WALK_LOCK
};

/*
 * Moves the adopted pages of a range to RAM, with mmap_lock held: 0 if there
 * were none, 1 if all were moved, an error if some stay. Pages that were moved
 * may still be on their way to the LRU.
 */
int __swap_bypass_fetch(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	struct swap_bypass_found found = { .bypass = READ_ONCE(swap_bypass_provider) };
	int error, result = 0;
	unsigned int i;

	if (!vma_is_anonymous(vma))
		return 0;
	for (; start < end && atomic_long_read(&found.bypass->adopted); start = found.next) {
		found.nr = 0;
		found.next = end;
		walk_page_range(vma->vm_mm, start, end, &swap_bypass_find_ops, &found);
		for (i = 0; i < found.nr; i++) {
			error = swap_bypass_move(found.bypass,
						 found.bypass->pages + found.offsets[i],
						 SWAP_BYPASS_FETCH_GFP);
			if (error == -ENOMEM || fatal_signal_pending(current))
				return -ENOMEM;
			if (error && error != -ENOENT)
				result = error;
		}
		result = result ?: !!found.nr;
	}
	return result;
}

/* Whether pages are copied now, which makes it pointless to read ahead. */
bool __swap_bypass_copies(struct swap_info_struct *si)
{
	return si->bypass->ops->mode(si->bypass) != SWAP_BYPASS_OFF;
}

/* Writes a folio of the swap cache by copying it, unless the mode is off. */
bool __swap_bypass_write(struct swap_info_struct *si, struct folio *folio)
{
	struct swap_bypass *bypass = si->bypass;
	unsigned long offset = swp_offset(folio_swap_entry(folio));
	long i, nr_pages = folio_nr_pages(folio);

	if (!__swap_bypass_copies(si))
		return false;
	for (i = 0; i < nr_pages; i++)
		copy_highpage(bypass->pages + offset + i, folio_page(folio, i));
	this_cpu_add(bypass->stats->out, nr_pages);
	return true;
}

/* Reads one the same way. */
bool __swap_bypass_read(struct swap_info_struct *si, struct folio *folio)
{
	struct swap_bypass *bypass = si->bypass;
	unsigned long offset = swp_offset(folio_swap_entry(folio));
	long i, nr_pages = folio_nr_pages(folio);

	if (!__swap_bypass_copies(si))
		return false;
	for (i = 0; i < nr_pages; i++)
		copy_highpage(folio_page(folio, i), bypass->pages + offset + i);
	this_cpu_add(bypass->stats->in, nr_pages);
	return true;
}

/**
 * swap_bypass_sum - adds up the events of all CPUs
 * @bypass: whose events
 * @sum: where to
 *
 * Any context.
 */
void swap_bypass_sum(struct swap_bypass *bypass, struct swap_bypass_stats *sum)
{
	u64 *to = (u64 *)sum;
	int cpu, i;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		u64 *from = (u64 *)per_cpu_ptr(bypass->stats, cpu);

		for (i = 0; i < sizeof(*sum) / sizeof(u64); i++)
			to[i] += READ_ONCE(from[i]);
	}
}

/**
 * swap_bypass_used - slots of the area that are in use
 * @bypass: the area
 *
 * Any context.
 *
 * Return: their number, adopted ones included; 0 without a swap area.
 */
unsigned long swap_bypass_used(struct swap_bypass *bypass)
{
	struct swap_info_struct *si = READ_ONCE(bypass->si);

	return si ? READ_ONCE(si->inuse_pages) : 0;
}
