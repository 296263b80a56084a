/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/bypass.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "machine/vcpu.h"
#include "symbiotic/begin.h"
#include "symbiotic/doorbell.h"

#define CR4_LA57    (1ULL << 12)
#define PTE_FRAME   0x000ffffffffff000ULL /* bits 51 to 12 */
#define PTE_PRESENT (1ULL << 0)
#define PTE_WRITE   (1ULL << 1)
#define PTE_USER    (1ULL << 2)
#define PTE_NX      (1ULL << 63)
/* PWT, PCD, PAT and global: memory is write-back, and the page a process's own. */
#define PTE_BAD (1ULL << 3 | 1ULL << 4 | 1ULL << 7 | 1ULL << 8)

struct swapbypass *swapbypass_create(struct symspy *symspy, const struct guest_memory *memory,
                                     uint32_t cpus)
{
	struct swapbypass *bypass =
	        calloc(1, sizeof(*bypass) + (size_t)cpus * sizeof(struct swapmap));

	if (!bypass)
		return NULL;
	for (uint32_t i = 0; i < cpus; i++)
		bypass->maps[i].bypass = bypass;
	bypass->hook = SWAPBYPASS_NO_HOOK;
	bypass->symspy = symspy;
	bypass->memory = memory;
	bypass->allowed = 1;
	pthread_mutex_init(&bypass->lock, NULL);
	return bypass;
}

void swapbypass_destroy(struct swapbypass *bypass)
{
	if (!bypass)
		return;
	pthread_mutex_destroy(&bypass->lock);
	free(bypass);
}

/* The announcement. */

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

uint32_t swapbypass_mode(struct swapbypass *bypass)
{
	uint32_t wanted = load(&bypass->wanted);

	if (!load(&bypass->allowed))
		return SYMBIOTIC_SWAP_OFF;
	/* A hook decides on faults, and in direct mode there are none to decide on. */
	if (wanted == SYMBIOTIC_SWAP_DIRECT && load(&bypass->hook) != SWAPBYPASS_NO_HOOK)
		return SYMBIOTIC_SWAP_SYMCALL;
	return wanted;
}

int swapbypass_offer(struct swapbypass *bypass, struct swapstore *store,
                     const struct symspy_swap *swap)
{
	if (bypass->store)
		return -EEXIST;
	if (swap->size != swapstore_slots(store) * SWAPSTORE_SLOT ||
	    swap->base + swap->size < swap->base || swap->room > swap->base ||
	    swap->mode > SYMBIOTIC_SWAP_DIRECT)
		return -EINVAL;
	bypass->store = store;
	bypass->offer = *swap;
	bypass->wanted = swap->mode;
	bypass->offer.mode = swapbypass_mode(bypass);
	symspy_set_swap(bypass->symspy, &bypass->offer);
	return 0;
}

static void announce(struct swapbypass *bypass, uint32_t *word, uint32_t value)
{
	pthread_mutex_lock(&bypass->lock);
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	if (bypass->store)
		symspy_set_swap_mode(bypass->symspy, swapbypass_mode(bypass));
	pthread_mutex_unlock(&bypass->lock);
}

void swapbypass_want(struct swapbypass *bypass, uint32_t mode)
{
	announce(bypass, &bypass->wanted,
	         mode <= SYMBIOTIC_SWAP_DIRECT ? mode : SYMBIOTIC_SWAP_OFF);
}

void swapbypass_allow(struct swapbypass *bypass, int allowed)
{
	announce(bypass, &bypass->allowed, allowed != 0);
}

void swapbypass_ask(struct swapbypass *bypass, uint32_t hook)
{
	announce(bypass, &bypass->hook, hook);
}

/* The guest's part. */

static void count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static bool set_attached(struct swapbypass *bypass, uint32_t how)
{
	uint32_t expected = ATTACHED_NOT;

	return __atomic_compare_exchange_n(&bypass->attached, &expected, how, false,
	                                   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* 0; -EBUSY if the disk holds data; -EINVAL. */
static int take(struct swapbypass *bypass, uint64_t base, uint64_t size, uint64_t flags)
{
	int error = 0;

	if (!bypass->store || base != bypass->offer.base || size != bypass->offer.size ||
	    flags & ~(uint64_t)SYMBIOTIC_SWAP_AS_TIER || load(&bypass->attached))
		return -EINVAL;
	if (!(flags & SYMBIOTIC_SWAP_AS_TIER))
		return set_attached(bypass, ATTACHED_AS_SWAP) ? 0 : -EINVAL;
	error = swapstore_take(bypass->store);
	if (!error && !set_attached(bypass, ATTACHED_AS_TIER)) {
		swapstore_give(bypass->store);
		error = -EINVAL;
	}
	return error;
}

static int give_up(struct swapbypass *bypass)
{
	uint32_t how = __atomic_exchange_n(&bypass->attached, ATTACHED_NOT, __ATOMIC_ACQ_REL);

	if (how == ATTACHED_AS_TIER)
		swapstore_give(bypass->store);
	return how == ATTACHED_NOT ? -EINVAL : 0;
}

static int on_attach(void *opaque, struct bus_access *access)
{
	struct swapbypass *bypass = opaque;
	const uint64_t *words = access->vcpu->hypercall;
	bool attaches = access->address == SYMBIOTIC_SWAP_ATTACH;
	int error = attaches ? take(bypass, words[1], words[2], words[3]) : give_up(bypass);
	const uint64_t reason = error == -EBUSY ? SYMBIOTIC_SWAP_HOLDS_DATA : 0;

	if (error)
		count(&bypass->counters.refused);
	else if (attaches)
		count(&bypass->counters.attached);
	else
		count(&bypass->counters.detached);
	doorbell_reply(access->vcpu, error ? SYMBIOTIC_HYPERCALL_REFUSED : SYMBIOTIC_HYPERCALL_DONE,
	               &reason, error ? 1 : 0);
	return BUS_DONE;
}

/* A tier: pages move there and are freed. */

static void add(uint64_t *counter, uint64_t amount)
{
	__atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static void refuse(struct vcpu *vcpu)
{
	doorbell_reply(vcpu, SYMBIOTIC_HYPERCALL_REFUSED, NULL, 0);
}

static void on_discard(struct swapbypass *bypass, struct vcpu *vcpu)
{
	uint64_t slot = vcpu->hypercall[1], slots = vcpu->hypercall[2];

	if (swapstore_discard(bypass->store, slot, slots)) {
		refuse(vcpu);
		return;
	}
	add(&bypass->counters.discarded, slots);
	doorbell_reply(vcpu, SYMBIOTIC_HYPERCALL_DONE, NULL, 0);
}

static void grant(struct swapbypass *bypass, struct vcpu *vcpu, uint64_t pages)
{
	add(&bypass->counters.granted, pages);
	doorbell_reply(vcpu, SYMBIOTIC_HYPERCALL_DONE, &pages, 1);
}

int swapmove_go_on(struct swapbypass *bypass, struct vcpu *vcpu, uint64_t pages)
{
	int error = symcall_freshen(vcpu);

	if (!error)
		grant(bypass, vcpu, pages);
	return error;
}

static int on_move(struct swapbypass *bypass, struct vcpu *vcpu)
{
	uint64_t pages = vcpu->hypercall[1], reason = vcpu->hypercall[2];
	uint32_t hook = load(&bypass->hook);

	if (!pages || pages > swapstore_slots(bypass->store) || reason < SYMBIOTIC_MOVE_AHEAD ||
	    reason > SYMBIOTIC_MOVE_BEHIND) {
		refuse(vcpu);
		return BUS_DONE;
	}
	add(&bypass->counters.asked, pages);
	if (load(&bypass->wanted) == SYMBIOTIC_SWAP_OFF || !load(&bypass->allowed)) {
		grant(bypass, vcpu, 0);
		return BUS_DONE;
	}
	if (hook != SWAPBYPASS_NO_HOOK) {
		vcpu->hook = hook;
		return VCPU_HYPERCALL;
	}
	grant(bypass, vcpu, pages);
	return BUS_DONE;
}

static int on_tier(void *opaque, struct bus_access *access)
{
	struct swapbypass *bypass = opaque;
	struct vcpu *vcpu = access->vcpu;

	if (load(&bypass->attached) != ATTACHED_AS_TIER) {
		refuse(vcpu);
		return BUS_DONE;
	}
	if (access->address == SYMBIOTIC_SWAP_MOVE)
		return on_move(bypass, vcpu);
	on_discard(bypass, vcpu);
	return BUS_DONE;
}

/* A fault on a page in the store. */

static struct swapmap *swapmap_of(struct symcall_call *call)
{
	return (struct swapmap *)((char *)call - offsetof(struct swapmap, call));
}

static void count_answer(struct swapbypass *bypass, uint32_t reason)
{
	__atomic_fetch_add(&bypass->counters.answers[reason], 1, __ATOMIC_RELAXED);
}

static void answer(struct swapbypass *bypass, struct vcpu *vcpu, uint32_t reason)
{
	const uint64_t result = reason;

	count_answer(bypass, reason);
	doorbell_reply(vcpu, SYMBIOTIC_HYPERCALL_DONE, &result, 1);
}

/* The guest's statements, checked. */

static bool is_user_page(const struct vcpu *vcpu, uint64_t vaddr)
{
	uint64_t end = 1ULL << (vcpu->run->s.regs.sregs.cr4 & CR4_LA57 ? 56 : 47);

	return vaddr < end && vaddr % SWAPSTORE_SLOT == 0;
}

static bool is_good_proposal(uint64_t pte)
{
	return (pte & (PTE_PRESENT | PTE_USER)) == (PTE_PRESENT | PTE_USER) && !(pte & PTE_BAD);
}

static uint32_t check(struct swapbypass *bypass, const struct vcpu *vcpu, const struct swapmap *map)
{
	if (load(&bypass->attached) != ATTACHED_AS_SWAP ||
	    load(&bypass->wanted) == SYMBIOTIC_SWAP_OFF)
		return SYMBIOTIC_SWAP_BAD_MODE;
	if (!map->slot || !swapstore_written(bypass->store, map->slot))
		return SYMBIOTIC_SWAP_BAD_SLOT;
	if (!is_user_page(vcpu, map->vaddr) || !map->old || (map->old & PTE_PRESENT) ||
	    !is_good_proposal(map->proposed))
		return SYMBIOTIC_SWAP_BAD_PTE;
	return SYMBIOTIC_SWAP_MAPPED;
}

static uint64_t granted(uint64_t pte)
{
	return SYMBIOTIC_ACCESS_READ | (pte & PTE_WRITE ? SYMBIOTIC_ACCESS_WRITE : 0) |
	       (pte & PTE_NX ? 0 : SYMBIOTIC_ACCESS_EXECUTE);
}

/* Writing its entry. */

static uint64_t composed(const struct swapbypass *bypass, const struct swapmap *map)
{
	uint64_t gpa = bypass->offer.base + map->slot * SWAPSTORE_SLOT;

	return (map->proposed & ~PTE_FRAME) | (gpa & PTE_FRAME);
}

static uint32_t write_entry(struct swapbypass *bypass, const struct swapmap *map, uint64_t gpa)
{
	uint64_t expected = map->old, *entry;

	if (gpa % sizeof(*entry) || symspy_holds(bypass->symspy, gpa, sizeof(*entry)))
		return SYMBIOTIC_SWAP_BAD_PTE;
	entry = guest_memory_ram_at(bypass->memory, gpa, sizeof(*entry));
	if (!entry)
		return SYMBIOTIC_SWAP_BAD_PTE;
	if (!__atomic_compare_exchange_n(entry, &expected, composed(bypass, map), false,
	                                 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return SYMBIOTIC_SWAP_BAD_RACE;
	return SYMBIOTIC_SWAP_MAPPED;
}

static uint32_t finish(const struct swapmap *map)
{
	const struct symcall_message *message = &map->call.message;
	uint64_t needed = granted(map->proposed);

	if (message->status != SYMCALL_OK || message->regs[0] != map->vaddr ||
	    (message->regs[2] & needed) != needed)
		return SYMBIOTIC_SWAP_BAD_LOOKUP;
	return write_entry(map->bypass, map, message->regs[1]);
}

static int looked_up(struct vcpu *vcpu, struct symcall_call *call, struct kvm_regs *regs)
{
	struct swapmap *map = swapmap_of(call);
	uint32_t reason = finish(map);

	(void)vcpu;
	count_answer(map->bypass, reason);
	regs->rax = SYMBIOTIC_HYPERCALL_DONE;
	regs->rbx = reason;
	return 0;
}

/* Its way. */

static void look_up(struct vcpu *vcpu, struct swapmap *map)
{
	struct symcall_message *message = &map->call.message;

	message->number = SYMCALL_MEM_LOOKUP;
	message->regs[0] = map->vaddr;
	message->regs[1] = map->old;
	message->regs[2] = map->proposed & PTE_WRITE
	                           ? SYMBIOTIC_ACCESS_READ | SYMBIOTIC_ACCESS_WRITE
	                           : SYMBIOTIC_ACCESS_READ;
	message->regs[3] = message->regs[4] = 0;
	if (symcall_begin(vcpu, &map->call, looked_up))
		answer(map->bypass, vcpu, SYMBIOTIC_SWAP_BAD_LOOKUP);
}

int swapmap_go_on(struct swapbypass *bypass, struct vcpu *vcpu, int allowed)
{
	int error = symcall_freshen(vcpu);

	if (error)
		return error;
	if (allowed)
		look_up(vcpu, &bypass->maps[vcpu->index]);
	else
		answer(bypass, vcpu, SYMBIOTIC_SWAP_BAD_POLICY);
	return 0;
}

static int on_map(void *opaque, struct bus_access *access)
{
	struct swapbypass *bypass = opaque;
	struct vcpu *vcpu = access->vcpu;
	struct swapmap *map = &bypass->maps[vcpu->index];
	uint32_t hook = load(&bypass->hook);
	uint32_t reason;

	__atomic_fetch_add(&bypass->counters.offered, 1, __ATOMIC_RELAXED);
	/* In a call it may be that of our own map that is under way. */
	if (vcpu->symcall->active) {
		answer(bypass, vcpu, SYMBIOTIC_SWAP_BAD_LOOKUP);
		return BUS_DONE;
	}
	map->vaddr = vcpu->hypercall[1];
	map->slot = vcpu->hypercall[2];
	map->old = vcpu->hypercall[3];
	map->proposed = vcpu->hypercall[4];
	reason = check(bypass, vcpu, map);
	if (reason == SYMBIOTIC_SWAP_MAPPED && hook != SWAPBYPASS_NO_HOOK) {
		vcpu->hook = hook;
		return VCPU_HYPERCALL;
	}
	if (reason == SYMBIOTIC_SWAP_MAPPED && !load(&bypass->allowed))
		reason = SYMBIOTIC_SWAP_BAD_POLICY;
	if (reason == SYMBIOTIC_SWAP_MAPPED)
		look_up(vcpu, map);
	else
		answer(bypass, vcpu, reason);
	return BUS_DONE;
}

int swapbypass_attach(struct swapbypass *bypass, struct bus *hypercalls)
{
	int error = bus_add(hypercalls, SYMBIOTIC_SWAP_ATTACH, 2, on_attach, bypass);

	if (!error)
		error = bus_add(hypercalls, SYMBIOTIC_SWAP_MAP, 1, on_map, bypass);
	return error ? error : bus_add(hypercalls, SYMBIOTIC_SWAP_DISCARD, 2, on_tier, bypass);
}

int swapbypass_is_attached(struct swapbypass *bypass)
{
	return load(&bypass->attached) != ATTACHED_NOT;
}

int swapbypass_is_tier(struct swapbypass *bypass)
{
	return load(&bypass->attached) == ATTACHED_AS_TIER;
}

void swapbypass_count(struct swapbypass *bypass, struct swapbypass_counters *counters)
{
	const uint64_t *from = (const uint64_t *)&bypass->counters;
	uint64_t *to = (uint64_t *)counters;

	for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
