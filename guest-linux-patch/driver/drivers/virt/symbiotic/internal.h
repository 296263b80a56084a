/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _SYMBIOTIC_INTERNAL_H
#define _SYMBIOTIC_INTERNAL_H

#include <linux/irq_work.h>
#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/percpu.h>
#include <linux/symbiotic.h>

/**
 * struct symbiotic_cpu - what each CPU has
 * @page: its SymSpy page; NULL while it is not registered
 * @stack: its stack for symcalls, THREAD_SIZE bytes
 * @unknown: symcalls with a number that nobody registered
 * @unlock: releases the mmap lock of @mm after a symcall
 * @mm: see @unlock
 */
struct symbiotic_cpu {
	struct symbiotic_vcpu_page *page;
	void *stack;
	u64 unknown;
	struct irq_work unlock;
	struct mm_struct *mm;
};

DECLARE_PER_CPU(struct symbiotic_cpu, symbiotic_cpus);

struct symbiotic_stats {
	u64 calls;
	u64 errors;
};

/**
 * struct symbiotic_call - a number that the VMM may call
 * @node: in symbiotic_calls
 * @number: the number
 * @fn: its handler
 * @owner: module of the handler; NULL: built in
 * @stats: counters of each CPU
 */
struct symbiotic_call {
	struct hlist_node node;
	u32 number;
	symbiotic_call_fn fn;
	struct module *owner;
	struct symbiotic_stats __percpu *stats;
};

typedef void (*symbiotic_visit_fn)(struct symbiotic_call *call, void *context);

/* calls.c */
int symbiotic_add_calls(void);
void symbiotic_remove_calls(void);
void symbiotic_visit_calls(symbiotic_visit_fn visit, void *context);

/* entry.S, and what it calls */
void symbiotic_entry(void);
void symbiotic_symcall(struct pt_regs *regs);

/* Handlers */
int symbiotic_kernel_facts(struct symbiotic_args *args);
int symbiotic_current_task(struct symbiotic_args *args);
int symbiotic_tasks(struct symbiotic_args *args);
int symbiotic_memory(struct symbiotic_args *args);
int symbiotic_mem_lookup(struct symbiotic_args *args);
int symbiotic_read(struct symbiotic_args *args);
void symbiotic_mmap_unlock(struct irq_work *work);

/**
 * struct symbiotic_mapping - what the page tables say about an address
 * @entry_gpa: where the entry is that ended the walk; 0: no such entry
 * @entry: the entry
 * @gpa: what the address translates to, if it is present
 * @access: SYMBIOTIC_ACCESS_* that the tables allow; 0: not present
 */
struct symbiotic_mapping {
	phys_addr_t entry_gpa;
	u64 entry;
	phys_addr_t gpa;
	u32 access;
};

/**
 * struct symbiotic_fault - a page fault that the VMM is asked to resolve
 * @address: the address
 * @entry: the value of its page table entry; 0: there is no such fault
 * @entry_gpa: where that entry is
 * @access: SYMBIOTIC_ACCESS_* that the mapping allows
 */
struct symbiotic_fault {
	unsigned long address;
	u64 entry;
	phys_addr_t entry_gpa;
	u32 access;
};

/* pagewalk.c */
void symbiotic_walk(unsigned long address, struct symbiotic_mapping *mapping);
u32 symbiotic_vma_access(const struct vm_area_struct *vma);

/* swap.c or tier.c: who uses the memory of the swap disk. */
#if defined(CONFIG_SYMBIOTIC_SWAP) || defined(CONFIG_SYMBIOTIC_TIER)
#define SYMBIOTIC_HAS_APERTURE
void symbiotic_swap_init(const struct symbiotic_vm_page *page);
void symbiotic_swap_detach(void);
void symbiotic_swap_attach(void);
int symbiotic_swap_freeze(void);
void symbiotic_swap_thaw(void);
int symbiotic_swap_collect(struct symbiotic_swap_stats *stats);
int symbiotic_swap_stats(struct symbiotic_args *args);
int symbiotic_swap_evict(struct symbiotic_args *args);
#else
static inline void symbiotic_swap_init(const struct symbiotic_vm_page *page) { }
static inline void symbiotic_swap_detach(void) { }
static inline void symbiotic_swap_attach(void) { }
static inline int symbiotic_swap_freeze(void) { return 0; }
static inline void symbiotic_swap_thaw(void) { }
static inline int symbiotic_swap_collect(struct symbiotic_swap_stats *stats) { return -ENODEV; }
#endif

#ifdef CONFIG_SYMBIOTIC_SWAP
bool symbiotic_swap_lookup(struct symbiotic_args *args);
#else
static inline bool symbiotic_swap_lookup(struct symbiotic_args *args) { return false; }
#endif

#ifdef CONFIG_SYMBIOTIC_TIER
void symbiotic_swap_exit(void);
#else
static inline void symbiotic_swap_exit(void) { }
#endif

#ifdef CONFIG_DEBUG_FS
void symbiotic_debugfs_init(void);
void symbiotic_debugfs_exit(void);
#else
static inline void symbiotic_debugfs_init(void) { }
static inline void symbiotic_debugfs_exit(void) { }
#endif

#endif /* _SYMBIOTIC_INTERNAL_H */
