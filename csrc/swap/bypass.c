/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/bypass.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "machine/vcpu.h"
#include "symbiotic/doorbell.h"

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

/* What is announced. */

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

uint32_t swapbypass_mode(struct swapbypass *bypass)
{
	uint32_t wanted = load(&bypass->wanted);

	if (!load(&bypass->allowed))
		return SWAP_MODE_OFF;
	/* A hook decides on faults, and in direct mode there are none to decide on. */
	if (wanted == SWAP_MODE_DIRECT && load(&bypass->hook) != SWAPBYPASS_NO_HOOK)
		return SWAP_MODE_SYMCALL;
	return wanted;
}

int swapbypass_offer(struct swapbypass *bypass, struct swapstore *store,
                     const struct symspy_swap *swap)
{
	if (bypass->store)
		return -EEXIST;
	if (swap->size != swapstore_slots(store) * SWAPSTORE_SLOT ||
	    swap->base + swap->size < swap->base || swap->room > swap->base ||
	    swap->mode > SWAP_MODE_DIRECT)
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
	announce(bypass, &bypass->wanted, mode <= SWAP_MODE_DIRECT ? mode : SWAP_MODE_OFF);
}

void swapbypass_allow(struct swapbypass *bypass, int allowed)
{
	announce(bypass, &bypass->allowed, allowed != 0);
}

void swapbypass_ask(struct swapbypass *bypass, uint32_t hook)
{
	announce(bypass, &bypass->hook, hook);
}

/* What the guest says. */

static void count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static bool take(struct swapbypass *bypass, uint64_t base, uint64_t size)
{
	uint32_t expected = 0;

	return bypass->store && base == bypass->offer.base && size == bypass->offer.size &&
	       __atomic_compare_exchange_n(&bypass->attached, &expected, 1, false, __ATOMIC_ACQ_REL,
	                                   __ATOMIC_ACQUIRE);
}

static bool give_up(struct swapbypass *bypass)
{
	return __atomic_exchange_n(&bypass->attached, 0, __ATOMIC_ACQ_REL);
}

static int on_attach(void *opaque, struct bus_access *access)
{
	struct swapbypass *bypass = opaque;
	const uint64_t *words = access->vcpu->hypercall;
	bool attaches = access->address == HYPERCALL_SWAP_ATTACH;
	bool done = attaches ? take(bypass, words[1], words[2]) : give_up(bypass);

	if (!done)
		count(&bypass->counters.refused);
	else if (attaches)
		count(&bypass->counters.attached);
	else
		count(&bypass->counters.detached);
	doorbell_reply(access->vcpu, done ? HYPERCALL_DONE : HYPERCALL_REFUSED, NULL, 0);
	return BUS_DONE;
}

int swapbypass_attach(struct swapbypass *bypass, struct bus *hypercalls)
{
	int error = bus_add(hypercalls, HYPERCALL_SWAP_ATTACH, 2, on_attach, bypass);

	return error ? error : swapmap_attach(bypass, hypercalls);
}

int swapbypass_is_attached(struct swapbypass *bypass)
{
	return (int)load(&bypass->attached);
}

void swapbypass_count(struct swapbypass *bypass, struct swapbypass_counters *counters)
{
	const uint64_t *from = (const uint64_t *)&bypass->counters;
	uint64_t *to = (uint64_t *)counters;

	for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
