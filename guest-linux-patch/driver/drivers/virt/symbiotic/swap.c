// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: the aperture becomes the memory of a swap area, for
 * a kernel whose fault path knows of it.
 */

#define pr_fmt(fmt) "symbiotic: " fmt

#include <linux/blkdev.h>
#include <linux/irq_work.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/swap_bypass.h>
#include <linux/workqueue.h>

#include "aperture.h"
#include "internal.h"

static_assert(sizeof(struct symbiotic_swap_stats) == 248);
static_assert(sizeof(struct symbiotic_swap_stats) <= SYMBIOTIC_DATA_SIZE);
static_assert(sizeof_field(struct symbiotic_vm_page, swap_serial) == BLK_SERIAL_LEN);

/**
 * struct symbiotic_swap - the swap disk
 * @bypass: its memory, as the swap code knows it
 * @wanted: pages that are still to be handed back
 * @irq: starts @work from a symcall
 * @work: hands pages back
 */
struct symbiotic_swap {
	struct swap_bypass bypass;
	unsigned long wanted;
	struct irq_work irq;
	struct work_struct work;
};

static struct symbiotic_swap symbiotic_swap;
static DEFINE_PER_CPU(struct symbiotic_fault, symbiotic_faults);
static DEFINE_PER_CPU(u64[SYMBIOTIC_SWAP_REASONS], symbiotic_swap_reasons);

static bool symbiotic_swap_match(struct swap_bypass *bypass, struct block_device *bdev)
{
	const struct block_device_operations *fops = bdev->bd_disk->fops;
	char serial[BLK_SERIAL_LEN] = "";

	if (!fops->get_serial || fops->get_serial(bdev->bd_disk, serial))
		return false;
	return !memcmp(serial, symbiotic_aperture.page->swap_serial, BLK_SERIAL_LEN);
}

static enum swap_bypass_mode symbiotic_swap_mode(struct swap_bypass *bypass)
{
	switch (symbiotic_aperture_mode()) {
	case SYMBIOTIC_SWAP_SYMCALL:
		return SWAP_BYPASS_ASK;
	case SYMBIOTIC_SWAP_DIRECT:
		return SWAP_BYPASS_DIRECT;
	default:
		return SWAP_BYPASS_OFF;
	}
}

/*
 * The VMM asks back, by SYMCALL_MEM_LOOKUP, and can have the answer from here:
 * the fault handler holds what a symcall would have to take a lock for.
 */
static bool symbiotic_swap_map(struct swap_bypass *bypass, struct vm_fault *vmf,
			       unsigned long offset, pte_t pte)
{
	struct symbiotic_fault *fault = this_cpu_ptr(&symbiotic_faults);
	struct symbiotic_args args = {
		.bx = vmf->address,
		.cx = offset,
		.dx = pte_val(vmf->orig_pte),
		.si = pte_val(pte),
	};
	int error;

	/* Page tables other than those that are loaded are not for the VMM. */
	if (vmf->vma->vm_mm != current->mm) {
		this_cpu_inc(symbiotic_swap_reasons[0]);
		return false;
	}
	fault->address = vmf->address;
	fault->entry_gpa = __pa(vmf->pte);
	fault->access = symbiotic_vma_access(vmf->vma);
	WRITE_ONCE(fault->entry, pte_val(vmf->orig_pte));
	error = symbiotic_hypercall(SYMBIOTIC_SWAP_MAP, &args);
	WRITE_ONCE(fault->entry, 0);
	if (!error && args.bx == SYMBIOTIC_SWAP_MAPPED)
		return true;
	if (error || args.bx >= SYMBIOTIC_SWAP_REASONS)
		args.bx = 0;
	this_cpu_inc(symbiotic_swap_reasons[args.bx]);
	return false;
}

/* SYMCALL_MEM_LOOKUP for the fault that this CPU is handling, if it is that. */
bool symbiotic_swap_lookup(struct symbiotic_args *args)
{
	const struct symbiotic_fault *fault = this_cpu_ptr(&symbiotic_faults);

	if (!READ_ONCE(fault->entry) || fault->address != args->bx)
		return false;
	if (args->dx & ~(u64)fault->access || (args->cx && args->cx != fault->entry))
		args->bx = 0;
	args->cx = fault->entry_gpa;
	args->dx = fault->access;
	return true;
}

static const struct swap_bypass_ops symbiotic_swap_ops = {
	.match = symbiotic_swap_match,
	.mode = symbiotic_swap_mode,
	.map = symbiotic_swap_map,
};

static void symbiotic_swap_page_free(struct page *page)
{
	swap_bypass_page_free(&symbiotic_swap.bypass, page);
}

static const struct dev_pagemap_ops symbiotic_swap_pagemap_ops = {
	.page_free = symbiotic_swap_page_free,
};

static void symbiotic_swap_work(struct work_struct *work)
{
	/* Once over all pages. What stays is for the VMM to ask for again. */
	swap_bypass_evict(&symbiotic_swap.bypass, READ_ONCE(symbiotic_swap.wanted),
			  SYMBIOTIC_EVICT_GFP);
	clear_bit_unlock(SYMBIOTIC_APERTURE_EVICTING_BIT, &symbiotic_aperture.flags);
}

static void symbiotic_swap_irq(struct irq_work *work)
{
	queue_work(system_unbound_wq, &symbiotic_swap.work);
}

/*
 * SYMCALL_SWAP_EVICT: BX is how many adopted pages the VMM wants to have moved
 * to the guest's own RAM, as far as that has room. Returns at once, in BX how
 * many there are.
 */
int symbiotic_swap_evict(struct symbiotic_args *args)
{
	struct symbiotic_swap *swap = &symbiotic_swap;

	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return -ENODEV;
	if (test_and_set_bit_lock(SYMBIOTIC_APERTURE_EVICTING_BIT, &symbiotic_aperture.flags))
		return -EBUSY;
	WRITE_ONCE(swap->wanted, args->bx);
	args->bx = atomic_long_read(&swap->bypass.adopted);
	irq_work_queue(&swap->irq);
	return 0;
}

static u32 symbiotic_swap_flags(const struct symbiotic_swap *swap)
{
	u32 flags = SYMBIOTIC_SWAP_ATTACHED;

	if (READ_ONCE(swap->bypass.si))
		flags |= SYMBIOTIC_SWAP_ON;
	if (symbiotic_aperture_has(SYMBIOTIC_APERTURE_EVICTING_BIT))
		flags |= SYMBIOTIC_SWAP_EVICTING;
	return flags;
}

static void symbiotic_swap_sum_reasons(struct symbiotic_swap_stats *stats)
{
	int cpu, i;

	for_each_possible_cpu(cpu) {
		for (i = 0; i < SYMBIOTIC_SWAP_REASONS; i++)
			stats->refused_reasons[i] +=
				READ_ONCE(per_cpu(symbiotic_swap_reasons, cpu)[i]);
	}
}

/* Fills in what there is to tell, in any context: 0, or -ENODEV. */
int symbiotic_swap_collect(struct symbiotic_swap_stats *stats)
{
	struct symbiotic_swap *swap = &symbiotic_swap;
	struct swap_bypass_stats sum;

	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return -ENODEV;
	swap_bypass_sum(&swap->bypass, &sum);
	*stats = (struct symbiotic_swap_stats){
		.size = sizeof(*stats),
		.flags = symbiotic_swap_flags(swap),
		.slots = swap->bypass.nr_pages,
		.used = swap_bypass_used(&swap->bypass),
		.adopted = atomic_long_read(&swap->bypass.adopted),
		.offered = sum.offered,
		.adopted_total = sum.adopted,
		.mapped_by_vmm = sum.asked,
		.refused_shared = sum.shared,
		.refused_mode = sum.off,
		.refused_vmm = sum.declined,
		.lost_races = sum.lost,
		.freed = sum.freed,
		.evicted = sum.moved,
		.evict_failed = sum.stuck,
		.pages_out = sum.out,
		.pages_in = sum.in,
		.zero_filled = sum.zeroed,
	};
	symbiotic_swap_sum_reasons(stats);
	return 0;
}

/* SYMCALL_SWAP_STATS: BX is the size of the struct in the data area. */
int symbiotic_swap_stats(struct symbiotic_args *args)
{
	args->bx = sizeof(struct symbiotic_swap_stats);
	return symbiotic_swap_collect(args->data);
}

/* Tells the VMM that the aperture is used: again, after a suspend. */
void symbiotic_swap_attach(void)
{
	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return;
	if (symbiotic_aperture_attach(0))
		pr_warn("the VMM refuses its swap disk\n");
}

void symbiotic_swap_detach(void)
{
	if (symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		symbiotic_aperture_detach();
}

/*
 * The image of a hibernation has the guest's RAM, and would be resumed with
 * page tables that refer to the aperture. So pages move to RAM, and no more are
 * adopted until symbiotic_swap_thaw().
 */
int symbiotic_swap_freeze(void)
{
	struct symbiotic_swap *swap = &symbiotic_swap;
	int error;

	if (!symbiotic_aperture_has(SYMBIOTIC_APERTURE_READY_BIT))
		return 0;
	set_bit(SYMBIOTIC_APERTURE_HIBERNATING_BIT, &symbiotic_aperture.flags);
	/* Faults that saw another mode are counted as adopted pages from now on. */
	synchronize_rcu();
	error = swap_bypass_evict_all(&swap->bypass);
	if (!error)
		return 0;
	symbiotic_swap_thaw();
	pr_warn("no hibernation: %ld pages of the swap disk stay in use\n",
		atomic_long_read(&swap->bypass.adopted));
	return error;
}

void symbiotic_swap_thaw(void)
{
	clear_bit(SYMBIOTIC_APERTURE_HIBERNATING_BIT, &symbiotic_aperture.flags);
}

static int __init symbiotic_swap_start(const struct symbiotic_vm_page *page)
{
	struct symbiotic_swap *swap = &symbiotic_swap;
	int error;

	swap->bypass.ops = &symbiotic_swap_ops;
	init_irq_work(&swap->irq, symbiotic_swap_irq);
	INIT_WORK(&swap->work, symbiotic_swap_work);
	error = symbiotic_aperture_map(page, &symbiotic_swap_pagemap_ops);
	if (error)
		return error;
	swap->bypass.pages = symbiotic_aperture.pages;
	swap->bypass.nr_pages = symbiotic_aperture.nr_pages;
	error = swap_bypass_register(&swap->bypass);
	if (error) {
		symbiotic_aperture_unmap();
		return error;
	}
	set_bit(SYMBIOTIC_APERTURE_READY_BIT, &symbiotic_aperture.flags);
	symbiotic_swap_attach();
	return 0;
}

/* A swap disk that cannot be used in this way works as any other. */
void __init symbiotic_swap_init(const struct symbiotic_vm_page *page)
{
	int error;

	if (!symbiotic_aperture_offered(page))
		return;
	error = symbiotic_swap_start(page);
	if (error)
		pr_warn("the swap disk is not bypassed: error %d\n", error);
}
