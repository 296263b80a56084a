/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct bus_table {
	struct bus_table *retired; /* the table this one replaced */
	size_t count;
	struct bus_range ranges[];
};

struct bus {
	struct bus_table *table;
	pthread_mutex_t lock; /* among writers */
};

static struct bus_table *table_create(size_t count)
{
	struct bus_table *table = calloc(1, sizeof(*table) + count * sizeof(struct bus_range));

	if (table)
		table->count = count;
	return table;
}

struct bus *bus_create(void)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	bus->table = table_create(0);
	if (!bus->table) {
		free(bus);
		return NULL;
	}
	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void bus_destroy(struct bus *bus)
{
	struct bus_table *table;

	if (!bus)
		return;
	table = bus->table;
	while (table) {
		struct bus_table *next = table->retired;

		free(table);
		table = next;
	}
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* Index of the first range that starts above the address. */
static size_t upper_bound(const struct bus_table *table, uint64_t address)
{
	size_t low = 0, high = table->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (table->ranges[middle].base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct bus_range *bus_find(const struct bus *bus, uint64_t address)
{
	const struct bus_table *table = __atomic_load_n(&bus->table, __ATOMIC_ACQUIRE);
	size_t after = upper_bound(table, address);
	const struct bus_range *range;

	if (!after)
		return NULL;
	range = &table->ranges[after - 1];
	return address - range->base < range->length ? range : NULL;
}

static void publish(struct bus *bus, struct bus_table *table)
{
	table->retired = bus->table;
	__atomic_store_n(&bus->table, table, __ATOMIC_RELEASE);
}

static int insert_locked(struct bus *bus, const struct bus_range *range)
{
	const struct bus_table *old = bus->table;
	size_t at = upper_bound(old, range->base);
	struct bus_table *table;

	if (at && range->base - old->ranges[at - 1].base < old->ranges[at - 1].length)
		return -EEXIST;
	if (at < old->count && old->ranges[at].base - range->base < range->length)
		return -EEXIST;
	table = table_create(old->count + 1);
	if (!table)
		return -ENOMEM;
	memcpy(table->ranges, old->ranges, at * sizeof(*range));
	table->ranges[at] = *range;
	memcpy(&table->ranges[at + 1], &old->ranges[at], (old->count - at) * sizeof(*range));
	publish(bus, table);
	return 0;
}

static int insert(struct bus *bus, const struct bus_range *range)
{
	int ret;

	if (!range->length || range->base + (range->length - 1) < range->base)
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	ret = insert_locked(bus, range);
	pthread_mutex_unlock(&bus->lock);
	return ret;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t length, bus_handler *handler, void *opaque)
{
	return insert(bus, &(struct bus_range){base, length, handler, opaque, 0});
}

int bus_add_hook(struct bus *bus, uint64_t base, uint64_t length, uint32_t hook)
{
	return insert(bus, &(struct bus_range){base, length, NULL, NULL, hook});
}

static int remove_locked(struct bus *bus, uint64_t base)
{
	const struct bus_table *old = bus->table;
	size_t after = upper_bound(old, base), at = after - 1;
	struct bus_table *table;

	if (!after || old->ranges[at].base != base)
		return -ENOENT;
	table = table_create(old->count - 1);
	if (!table)
		return -ENOMEM;
	memcpy(table->ranges, old->ranges, at * sizeof(struct bus_range));
	memcpy(&table->ranges[at], &old->ranges[after],
	       (old->count - after) * sizeof(struct bus_range));
	publish(bus, table);
	return 0;
}

int bus_remove(struct bus *bus, uint64_t base)
{
	int ret;

	pthread_mutex_lock(&bus->lock);
	ret = remove_locked(bus, base);
	pthread_mutex_unlock(&bus->lock);
	return ret;
}
