// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: how memory is used.
 */

#include <linux/mm.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include "internal.h"
#include "reach.h"

static_assert(sizeof(struct symbiotic_memory) == 120);
static_assert(sizeof(struct symbiotic_memory) <= SYMBIOTIC_DATA_SIZE);

static u64 symbiotic_bytes(long pages)
{
	return (u64)max(pages, 0L) << PAGE_SHIFT;
}

static u64 symbiotic_node_bytes(enum node_stat_item item)
{
	return symbiotic_bytes(global_node_page_state_pages(item));
}

#ifdef CONFIG_VM_EVENT_COUNTERS
/* all_vm_events() may sleep. */
static u64 symbiotic_events(enum vm_event_item item)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu(vm_event_states, cpu).event[item]);
	return sum;
}

static void symbiotic_count_events(struct symbiotic_memory *memory)
{
#ifdef CONFIG_SWAP
	memory->pswpin = symbiotic_events(PSWPIN);
	memory->pswpout = symbiotic_events(PSWPOUT);
#endif
	memory->pgfault = symbiotic_events(PGFAULT);
	memory->pgmajfault = symbiotic_events(PGMAJFAULT);
}
#else
static void symbiotic_count_events(struct symbiotic_memory *memory)
{
	memory->pswpin = SYMBIOTIC_UNKNOWN;
	memory->pswpout = SYMBIOTIC_UNKNOWN;
	memory->pgfault = SYMBIOTIC_UNKNOWN;
	memory->pgmajfault = SYMBIOTIC_UNKNOWN;
}
#endif

/* SYMCALL_MEMORY: BX is the size of the struct in the data area. */
int symbiotic_memory(struct symbiotic_args *args)
{
	struct symbiotic_memory *memory = args->data;
	long cached = global_node_page_state(NR_FILE_PAGES) - total_swapcache_pages();

	memset(memory, 0, sizeof(*memory));
	memory->size = sizeof(*memory);
	memory->page_size = PAGE_SIZE;
	memory->total = symbiotic_bytes(totalram_pages());
	memory->free = symbiotic_bytes(global_zone_page_state(NR_FREE_PAGES));
	memory->available = symbiotic_bytes(si_mem_available());
	memory->cached = symbiotic_bytes(cached);
	memory->anonymous = symbiotic_node_bytes(NR_ANON_MAPPED);
	memory->slab = symbiotic_node_bytes(NR_SLAB_RECLAIMABLE_B) +
		       symbiotic_node_bytes(NR_SLAB_UNRECLAIMABLE_B);
	memory->dirty = symbiotic_node_bytes(NR_FILE_DIRTY);
	memory->swap_total = symbiotic_swap_total();
	memory->swap_free = symbiotic_bytes(get_nr_swap_pages());
	memory->swap_cached = symbiotic_bytes(total_swapcache_pages());
	symbiotic_count_events(memory);
	args->bx = sizeof(*memory);
	return 0;
}
