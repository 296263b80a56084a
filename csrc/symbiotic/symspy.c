/* SPDX-License-Identifier: Apache-2.0 */
#include "symbiotic/symspy.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/vcpu.h"

enum {
	MAX_RESERVED = 8,

	/* Where the extension of the VM-wide page ends, with a swap disk and without. */
	VM_END = offsetof(struct symbiotic_vm_page, reserved3),
	VM_END_PLAIN = offsetof(struct symbiotic_vm_page, aperture_room),
};

_Static_assert(sizeof(struct symbiotic_vm_page) == SYMBIOTIC_PAGE_SIZE, "a page");
_Static_assert(sizeof(struct symbiotic_vcpu_page) == SYMBIOTIC_PAGE_SIZE, "a page");
_Static_assert(offsetof(struct symbiotic_vcpu_page, flags) == SYMBIOTIC_FLAGS_OFFSET, "flags");
_Static_assert(offsetof(struct symbiotic_vcpu_page, data) == SYMBIOTIC_DATA_OFFSET, "data");

struct page {
	uint64_t gpa; /* 0: none */
	uint8_t *hva;
};

struct range {
	uint64_t gpa;
	uint64_t length;
};

struct symspy {
	const struct guest_memory *memory;
	pthread_mutex_t lock; /* of everything below, among the vCPUs */
	uint64_t refused;
	bool has_swap;
	struct symspy_swap swap;
	struct range reserved[MAX_RESERVED];
	uint32_t reserved_count;
	uint32_t pages_count;
	struct page pages[]; /* the VM-wide one, then one a vCPU */
};

struct symspy *symspy_create(const struct guest_memory *memory, uint32_t cpus)
{
	struct symspy *symspy = calloc(1, sizeof(*symspy) + (cpus + 1) * sizeof(struct page));

	if (!symspy)
		return NULL;
	symspy->memory = memory;
	symspy->pages_count = cpus + 1;
	pthread_mutex_init(&symspy->lock, NULL);
	return symspy;
}

void symspy_destroy(struct symspy *symspy)
{
	if (!symspy)
		return;
	pthread_mutex_destroy(&symspy->lock);
	free(symspy);
}

int symspy_reserve(struct symspy *symspy, uint64_t gpa, uint64_t length)
{
	if (!length || gpa + length < gpa)
		return -EINVAL;
	if (symspy->reserved_count == MAX_RESERVED)
		return -ENOSPC;
	symspy->reserved[symspy->reserved_count++] = (struct range){gpa, length};
	return 0;
}

static int overlaps(uint64_t gpa, uint64_t other, uint64_t length)
{
	return gpa < other + length && other < gpa + SYMBIOTIC_PAGE_SIZE;
}

static int taken(const struct symspy *symspy, uint64_t gpa, uint32_t which)
{
	for (uint32_t i = 0; i < symspy->reserved_count; i++)
		if (overlaps(gpa, symspy->reserved[i].gpa, symspy->reserved[i].length))
			return 1;
	for (uint32_t i = 0; i < symspy->pages_count; i++)
		if (i != which && symspy->pages[i].gpa &&
		    overlaps(gpa, symspy->pages[i].gpa, SYMBIOTIC_PAGE_SIZE))
			return 1;
	return 0;
}

static void write_vm_page(const struct symspy *symspy, uint8_t *page)
{
	const struct symspy_swap *swap = &symspy->swap;
	const uint32_t end = symspy->has_swap ? VM_END : VM_END_PLAIN;
	struct symbiotic_vm_page new = {
	        .magic = SYMBIOTIC_CPUID_SIGNATURE,
	        .ext_size = end - offsetof(struct symbiotic_vm_page, ext_size),
	        .ext_version = SYMBIOTIC_EXT_VERSION,
	        .swap_mode = swap->mode,
	        .aperture_base = swap->base,
	        .aperture_size = swap->size,
	        .aperture_room = swap->room,
	};

	memcpy(new.swap_serial, swap->serial, sizeof(new.swap_serial));
	memcpy(page + sizeof(new.magic), (uint8_t *)&new + sizeof(new.magic),
	       end - sizeof(new.magic));
	memcpy(page, &new.magic, sizeof(new.magic));
}

static void write_vcpu_page(uint8_t *page, uint32_t cpu)
{
	struct symbiotic_vcpu_page *to = (struct symbiotic_vcpu_page *)page;
	char magic[16] = "";

	/* Eight bytes count: numbers beyond 9999 lose digits, which nobody has so far. */
	snprintf(magic, sizeof(magic), "V3V.%u", cpu);
	to->flags = 0;
	to->ext_size = offsetof(struct symbiotic_vcpu_page, reserved1) -
	               offsetof(struct symbiotic_vcpu_page, ext_size);
	to->ext_version = SYMBIOTIC_EXT_VERSION;
	to->data_offset = SYMBIOTIC_DATA_OFFSET;
	to->data_size = SYMBIOTIC_DATA_SIZE;
	memcpy(&to->magic, magic, sizeof(to->magic));
}

/* 0 or BUS_FAULT, and then nothing changed. A page that is given up is left as it is. */
static int set_page(struct symspy *symspy, uint32_t which, uint64_t gpa)
{
	struct page page = {.gpa = gpa};

	if (gpa) {
		if (gpa % SYMBIOTIC_PAGE_SIZE || taken(symspy, gpa, which))
			return BUS_FAULT;
		page.hva = guest_memory_ram_at(symspy->memory, gpa, SYMBIOTIC_PAGE_SIZE);
		if (!page.hva)
			return BUS_FAULT;
		if (which)
			write_vcpu_page(page.hva, which - 1);
		else
			write_vm_page(symspy, page.hva);
	}
	symspy->pages[which] = page;
	return BUS_DONE;
}

static int on_msr(void *opaque, struct bus_access *access)
{
	struct symspy *symspy = opaque;
	uint32_t which = access->address == MSR_SYMBIOTIC_VM_PAGE ? 0 : access->vcpu->index + 1;
	int result = BUS_DONE;

	if (which >= symspy->pages_count)
		return BUS_FAULT;
	pthread_mutex_lock(&symspy->lock);
	if (!access->is_write)
		access->value = symspy->pages[which].gpa;
	else
		result = set_page(symspy, which, access->value);
	if (result == BUS_FAULT)
		symspy->refused++;
	pthread_mutex_unlock(&symspy->lock);
	return result;
}

int symspy_attach(struct symspy *symspy, struct bus *msr)
{
	return bus_add(msr, MSR_SYMBIOTIC_VM_PAGE, 2, on_msr, symspy);
}

uint64_t symspy_page(struct symspy *symspy, int cpu)
{
	uint32_t which = (uint32_t)(cpu + 1);
	uint64_t gpa = 0;

	pthread_mutex_lock(&symspy->lock);
	if (which < symspy->pages_count)
		gpa = symspy->pages[which].gpa;
	pthread_mutex_unlock(&symspy->lock);
	return gpa;
}

void symspy_set_swap(struct symspy *symspy, const struct symspy_swap *swap)
{
	pthread_mutex_lock(&symspy->lock);
	symspy->has_swap = true;
	symspy->swap = *swap;
	if (symspy->pages[0].hva)
		write_vm_page(symspy, symspy->pages[0].hva);
	pthread_mutex_unlock(&symspy->lock);
}

void symspy_set_swap_mode(struct symspy *symspy, uint32_t mode)
{
	uint8_t *page;

	pthread_mutex_lock(&symspy->lock);
	symspy->swap.mode = mode;
	page = symspy->pages[0].hva;
	if (page)
		__atomic_store_n(&((struct symbiotic_vm_page *)page)->swap_mode, mode,
		                 __ATOMIC_RELEASE);
	pthread_mutex_unlock(&symspy->lock);
}

int symspy_holds(struct symspy *symspy, uint64_t gpa, uint64_t length)
{
	int holds = 0;

	pthread_mutex_lock(&symspy->lock);
	for (uint32_t i = 0; i < symspy->pages_count; i++)
		if (symspy->pages[i].gpa && overlaps(symspy->pages[i].gpa, gpa, length))
			holds = 1;
	pthread_mutex_unlock(&symspy->lock);
	return holds;
}

uint64_t symspy_refused(struct symspy *symspy)
{
	uint64_t refused;

	pthread_mutex_lock(&symspy->lock);
	refused = symspy->refused;
	pthread_mutex_unlock(&symspy->lock);
	return refused;
}

/* Only the vCPU itself ever changes its page, so that its own thread needs no lock to look. */
uint8_t *symspy_vcpu_page(const struct symspy *symspy, uint32_t cpu)
{
	return symspy->pages[cpu + 1].hva;
}
