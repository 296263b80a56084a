// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: what virtual addresses map to.
 *
 * Page tables are walked as get_user_pages_fast() does it: interrupts are off,
 * so whoever frees a table waits for this CPU. Memory is then read through the
 * direct mapping. Reading the virtual address itself could fault, and the IRET
 * at the end of a fault would unblock NMIs in a handler that was interrupted.
 */

#include <linux/bits.h>
#include <linux/cpufeature.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pgtable.h>
#include <linux/processor.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "internal.h"

#define SYMBIOTIC_ACCESS_ALL \
	(SYMBIOTIC_ACCESS_READ | SYMBIOTIC_ACCESS_WRITE | SYMBIOTIC_ACCESS_EXECUTE)

/* Bits of a virtual address that a table of page tables is indexed by. */
#define SYMBIOTIC_LEVEL_BITS	9

static u32 symbiotic_entry_access(u64 entry, bool top)
{
	u32 access = SYMBIOTIC_ACCESS_READ;

	if (entry & _PAGE_RW)
		access |= SYMBIOTIC_ACCESS_WRITE;
	/* Page-table isolation: user space has another copy of this one. */
	if (top && entry & _PAGE_USER && boot_cpu_has(X86_FEATURE_PTI))
		entry &= ~_PAGE_NX;
	if (!(entry & _PAGE_NX))
		access |= SYMBIOTIC_ACCESS_EXECUTE;
	return access;
}

/* Looks an address up in the page tables that this CPU uses. */
void symbiotic_walk(unsigned long address, struct symbiotic_mapping *mapping)
{
	const int top = pgtable_l5_enabled() ? PGDIR_SHIFT : P4D_SHIFT;
	u32 access = SYMBIOTIC_ACCESS_ALL;
	phys_addr_t table = read_cr3_pa();
	int shift;

	*mapping = (struct symbiotic_mapping){ };
	if (!__is_canonical_address(address, top + SYMBIOTIC_LEVEL_BITS))
		return;
	for (shift = top; shift >= PAGE_SHIFT; shift -= SYMBIOTIC_LEVEL_BITS) {
		u64 index = address >> shift & (PTRS_PER_PTE - 1);
		phys_addr_t gpa = table + index * sizeof(u64);
		u64 entry = READ_ONCE(*(u64 *)__va(gpa));
		bool leaf = shift == PAGE_SHIFT || entry & _PAGE_PSE;

		if (!(entry & _PAGE_PRESENT) && shift > PAGE_SHIFT)
			return;
		table = entry & PTE_PFN_MASK;
		access &= symbiotic_entry_access(entry, shift == top);
		if (!leaf)
			continue;
		mapping->entry_gpa = gpa;
		mapping->entry = entry;
		if (entry & _PAGE_PRESENT) {
			/* A large page has an attribute among its address bits. */
			mapping->gpa = (table & GENMASK_ULL(63, shift)) |
				       (address & GENMASK_ULL(shift - 1, 0));
			mapping->access = access;
		}
		return;
	}
}

/* Releasing the lock may wake a writer, which an NMI must not do. */
void symbiotic_mmap_unlock(struct irq_work *work)
{
	struct symbiotic_cpu *cpu = container_of(work, struct symbiotic_cpu, unlock);

	mmap_read_unlock_non_owner(cpu->mm);
}

u32 symbiotic_vma_access(const struct vm_area_struct *vma)
{
	u32 access = 0;

	if (vma->vm_flags & VM_READ)
		access |= SYMBIOTIC_ACCESS_READ;
	if (vma->vm_flags & VM_WRITE)
		access |= SYMBIOTIC_ACCESS_WRITE;
	if (vma->vm_flags & VM_EXEC)
		access |= SYMBIOTIC_ACCESS_EXECUTE;
	return access;
}

/* How a page that is not present may be accessed, once it was faulted in. */
static int symbiotic_absent_access(unsigned long address, u32 *access)
{
	struct symbiotic_cpu *cpu = this_cpu_ptr(&symbiotic_cpus);
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;

	*access = 0;
	/* A kernel thread, or one that is about to change its mm. */
	if (!mm || __pa(mm->pgd) != read_cr3_pa() || address >= TASK_SIZE_MAX)
		return 0;
	if (irq_work_is_busy(&cpu->unlock) || !mmap_read_trylock(mm))
		return -EAGAIN;
	vma = find_vma(mm, address);
	if (vma && vma->vm_start <= address)
		*access = symbiotic_vma_access(vma);
	cpu->mm = mm;
	irq_work_queue(&cpu->unlock);
	return 0;
}

/*
 * SYMCALL_MEM_LOOKUP: BX is an address, CX the value that its page table entry
 * is expected to have or 0, DX the access in question. Returns in BX the
 * address if it may be accessed, else 0, in CX the guest-physical address of
 * the entry or 0, in DX the access that is allowed: by the page tables if the
 * page is present, by the mapping if it is not.
 */
int symbiotic_mem_lookup(struct symbiotic_args *args)
{
	struct symbiotic_mapping mapping;
	u32 access;
	int error;

	if (args->dx & ~(u64)SYMBIOTIC_ACCESS_ALL)
		return -EINVAL;
	if (symbiotic_swap_lookup(args))
		return 0;
	symbiotic_walk(args->bx, &mapping);
	access = mapping.access;
	if (!access) {
		error = symbiotic_absent_access(args->bx, &access);
		if (error)
			return error;
	}
	if (!access || args->dx & ~access || (args->cx && args->cx != mapping.entry))
		args->bx = 0;
	args->cx = mapping.entry_gpa;
	args->dx = access;
	return 0;
}

/*
 * SYMCALL_READ: BX is an address, CX a number of bytes. Returns in BX how many
 * of them are in the data area: fewer if what follows cannot be read.
 */
int symbiotic_read(struct symbiotic_args *args)
{
	unsigned long address = args->bx;
	u64 length = args->cx, done = 0;

	if (length > SYMBIOTIC_DATA_SIZE || address + length < address)
		return -EINVAL;
	while (done < length) {
		u32 chunk = min(length - done, PAGE_SIZE - offset_in_page(address + done));
		struct symbiotic_mapping mapping;

		symbiotic_walk(address + done, &mapping);
		/* Without a struct page it may be a device, which reading can upset. */
		if (!mapping.access || !pfn_valid(PHYS_PFN(mapping.gpa)))
			break;
		if (copy_from_kernel_nofault(args->data + done, __va(mapping.gpa), chunk))
			break;
		done += chunk;
	}
	if (!done && length)
		return -EFAULT;
	args->bx = done;
	return 0;
}
