// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: what a debugger has to know of this kernel.
 */

#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/utsname.h>

#include "internal.h"
#include "reach.h"

static_assert(sizeof(struct symbiotic_facts) == 200);
static_assert(sizeof(struct symbiotic_facts) <= SYMBIOTIC_DATA_SIZE);

/* SYMCALL_KERNEL_FACTS: BX is the size of the struct in the data area. */
int symbiotic_kernel_facts(struct symbiotic_args *args)
{
	struct symbiotic_facts *facts = args->data;

	memset(facts, 0, sizeof(*facts));
	facts->size = sizeof(*facts);
	facts->flags = SYMBIOTIC_FACTS_FLAGS;
	facts->kaslr_offset = symbiotic_kaslr_offset();
	facts->phys_base = phys_base;
	facts->page_offset = PAGE_OFFSET;
	facts->vmcoreinfo_gpa = symbiotic_vmcoreinfo(&facts->vmcoreinfo_size);
	facts->possible_cpus = num_possible_cpus();
	facts->percpu_base = (unsigned long)this_cpu_read(this_cpu_off);
	facts->cpu = smp_processor_id();
	facts->page_table_levels = pgtable_l5_enabled() ? 5 : 4;
	facts->kernel_pgd_gpa = symbiotic_kernel_pgd();
	/* Whole by the size of the fields of struct new_utsname. */
	strscpy(facts->release, init_utsname()->release, sizeof(facts->release));
	strscpy(facts->version, init_utsname()->version, sizeof(facts->version));
	args->bx = sizeof(*facts);
	return 0;
}
