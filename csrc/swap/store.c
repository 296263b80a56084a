/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <symbiotic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "host/pagemap.h"
#include "swap/count.h"

enum {
	SECTORS_A_SLOT = SWAPSTORE_SLOT / 512,
	BITS = 64,
	FOLLOW_NS = 10 * 1000 * 1000,
	SLOTS_A_CHUNK = PAGEMAP_CHUNK / SWAPSTORE_SLOT,
};

struct swapstore {
	int fd;               /* not owned; -1 for memory */
	struct pagemap pages; /* of the memory */
	bool small;           /* grows by small pages */
	struct swapcount count;
	uint64_t slots;
	size_t map_bytes;
	uint64_t held; /* bits of `written` that are set; atomic */
	bool keep;     /* a discard leaves the file its blocks */

	pthread_mutex_t lock; /* of who uses the contents: the disk's thread, or who takes it */
	bool taken;
	swapstore_on_take *on_take;
	void *opaque;

	uint64_t *
	        written; /* a bit a slot, atomic; mapped, so that what is never set costs nothing */
};

/* Blocks that are set aside are not given until something is written. */
static uint64_t bytes_of_file(int fd, uint64_t start, uint64_t end)
{
	uint64_t bytes = 0;
	off_t at = (off_t)start;

	while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < end) {
		off_t hole = lseek(fd, at, SEEK_HOLE);

		if (hole <= at)
			break;
		bytes += ((uint64_t)hole < end ? (uint64_t)hole : end) - (uint64_t)at;
		at = hole;
	}
	return bytes;
}

static uint64_t bytes_of_chunk(const void *opaque, uint64_t chunk)
{
	const struct swapstore *store = opaque;
	uint64_t start = chunk * PAGEMAP_CHUNK, end = start + PAGEMAP_CHUNK;
	uint64_t size = store->slots * SWAPSTORE_SLOT;

	if (store->fd < 0)
		return pagemap_chunk(&store->pages, chunk);
	return bytes_of_file(store->fd, start, end < size ? end : size);
}

static struct swapstore *create(uint64_t size)
{
	struct swapstore *store;
	void *map;

	if (!size || size % SWAPSTORE_SLOT || size > INT64_MAX) {
		errno = EINVAL;
		return NULL;
	}
	store = calloc(1, sizeof(*store));
	if (!store)
		return NULL;
	store->fd = store->pages.fd = -1;
	store->slots = size / SWAPSTORE_SLOT;
	if (swapcount_init(&store->count, (size + PAGEMAP_CHUNK - 1) / PAGEMAP_CHUNK,
	                   bytes_of_chunk, store)) {
		free(store);
		errno = ENOMEM;
		return NULL;
	}
	store->map_bytes = (store->slots + BITS - 1) / BITS * sizeof(uint64_t);
	map = mmap(NULL, store->map_bytes, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED) {
		swapcount_free(&store->count);
		free(store);
		return NULL;
	}
	store->written = map;
	pthread_mutex_init(&store->lock, NULL);
	return store;
}

int swapstore_allocate(int fd, uint64_t size)
{
	struct statfs system;
	int ret;

	if (fstatfs(fd, &system))
		return -errno;
	if (system.f_type == TMPFS_MAGIC)
		return -EOPNOTSUPP;
	do {
		ret = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

struct swapstore *swapstore_create(int fd, uint64_t size)
{
	struct swapstore *store = create(size);

	if (store)
		store->fd = fd;
	return store;
}

struct swapstore *swapstore_create_memory(void *memory, uint64_t size)
{
	struct swapstore *store = create(size);

	if (store)
		pagemap_open(&store->pages, memory, size);
	return store;
}

void swapstore_destroy(struct swapstore *store)
{
	if (!store)
		return;
	pthread_mutex_destroy(&store->lock);
	pagemap_close(&store->pages);
	munmap(store->written, store->map_bytes);
	swapcount_free(&store->count);
	free(store);
}

static void change(struct swapstore *store, uint64_t index, uint64_t mask, int set)
{
	uint64_t *word = &store->written[index], before;

	if (set) {
		before = __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
		__atomic_fetch_add(&store->held, (uint64_t)__builtin_popcountll(mask & ~before),
		                   __ATOMIC_RELAXED);
	} else if (__atomic_load_n(word, __ATOMIC_RELAXED) & mask) {
		before = __atomic_fetch_and(word, ~mask, __ATOMIC_RELEASE);
		__atomic_fetch_sub(&store->held, (uint64_t)__builtin_popcountll(mask & before),
		                   __ATOMIC_RELAXED);
	}
}

/* Bits [first, end), by whole words: a discard may be of gigabytes. */
static void change_range(struct swapstore *store, uint64_t first, uint64_t end, int set)
{
	if (end > store->slots)
		end = store->slots;
	while (first < end) {
		uint64_t left = end - first, bit = first % BITS;
		uint64_t count = left < BITS - bit ? left : BITS - bit;

		change(store, first / BITS, ~0ULL >> (BITS - count) << bit, set);
		first += count;
	}
}

void swapstore_on_write(void *opaque, uint64_t sector, uint64_t count)
{
	struct swapstore *store = opaque;
	uint64_t first = sector / SECTORS_A_SLOT, last;

	if (!count)
		return;
	/* A slot that is written in part holds data. */
	last = (sector + count - 1) / SECTORS_A_SLOT;
	change_range(store, first, last + 1, 1);
	swapcount_note(&store->count, first / SLOTS_A_CHUNK);
	swapcount_note(&store->count, last / SLOTS_A_CHUNK);
}

void swapstore_on_discard(void *opaque, uint64_t sector, uint64_t count)
{
	/* One that is discarded in part still does. */
	change_range(opaque, (sector + SECTORS_A_SLOT - 1) / SECTORS_A_SLOT,
	             (sector + count) / SECTORS_A_SLOT, 0);
}

/* The disk has the memory, or the guest uses it as a tier. */

int swapstore_enter(void *opaque)
{
	struct swapstore *store = opaque;

	pthread_mutex_lock(&store->lock);
	if (!store->taken)
		return 1;
	pthread_mutex_unlock(&store->lock);
	return 0;
}

void swapstore_leave(void *opaque)
{
	struct swapstore *store = opaque;

	pthread_mutex_unlock(&store->lock);
}

void swapstore_tell(struct swapstore *store, swapstore_on_take *on_take, void *opaque)
{
	store->on_take = on_take;
	store->opaque = opaque;
}

/* Slot 0 is the header of a swap area, which stays as it is. */
static bool holds_data(const struct swapstore *store)
{
	uint64_t header = __atomic_load_n(&store->written[0], __ATOMIC_ACQUIRE) & 1;

	return __atomic_load_n(&store->held, __ATOMIC_ACQUIRE) > header;
}

static void set_taken(struct swapstore *store, bool taken)
{
	store->taken = taken;
	if (store->on_take)
		store->on_take(store->opaque, taken);
}

int swapstore_take(struct swapstore *store)
{
	int ret = -EBUSY;

	pthread_mutex_lock(&store->lock);
	if (!store->taken && !holds_data(store)) {
		set_taken(store, true);
		ret = 0;
	}
	pthread_mutex_unlock(&store->lock);
	return ret;
}

void swapstore_give(struct swapstore *store)
{
	pthread_mutex_lock(&store->lock);
	if (store->taken)
		set_taken(store, false);
	pthread_mutex_unlock(&store->lock);
}

void swapstore_keep_blocks(struct swapstore *store)
{
	store->keep = true;
}

static int discard_of_file(const struct swapstore *store, off_t start, off_t length)
{
	if (store->keep &&
	    !fallocate(store->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, start, length))
		return 0;
	if (!fallocate(store->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length))
		return 0;
	/* A discard is advice. */
	return errno == EOPNOTSUPP ? 0 : -errno;
}

static int discard(struct swapstore *store, uint64_t start, uint64_t length)
{
	uint8_t *memory = (uint8_t *)store->pages.memory + start;

	if (store->fd >= 0)
		return discard_of_file(store, (off_t)start, (off_t)length);
	/* Refused for memory that is locked. */
	if (madvise(memory, length, MADV_DONTNEED))
		memset(memory, 0, length);
	return 0;
}

int swapstore_discard(struct swapstore *store, uint64_t slot, uint64_t count)
{
	int ret = -EPERM;

	if (!slot || !count || count > SYMBIOTIC_SWAP_DISCARD_SLOTS || slot >= store->slots ||
	    count > store->slots - slot)
		return -EINVAL;
	pthread_mutex_lock(&store->lock);
	if (store->taken) {
		ret = discard(store, slot * SWAPSTORE_SLOT, count * SWAPSTORE_SLOT);
		change_range(store, slot, slot + count, 0);
	}
	pthread_mutex_unlock(&store->lock);
	return ret;
}

uint64_t swapstore_slots(const struct swapstore *store)
{
	return store->slots;
}

/*
 * By the host's word. Of memory that includes a slot that was only read, and with huge pages each
 * slot whose huge page exists: a guest that names one reads zeroes, which are its own.
 */
static int is_there(const struct swapstore *store, uint64_t slot)
{
	off_t offset = (off_t)(slot * SWAPSTORE_SLOT);

	if (store->fd < 0)
		return pagemap_has(&store->pages, (uint64_t)offset);
	return lseek(store->fd, offset, SEEK_DATA) == offset;
}

/*
 * What the host says is kept, so that it is asked once. A discard of the same slot at the same time
 * can leave the bit set on a hole: a guest that discards what it uses reads zeroes, nothing else.
 */
int swapstore_written(struct swapstore *store, uint64_t slot)
{
	uint64_t mask = 1ULL << slot % BITS;

	if (slot >= store->slots)
		return 0;
	if (__atomic_load_n(&store->written[slot / BITS], __ATOMIC_ACQUIRE) & mask)
		return 1;
	if (!is_there(store, slot))
		return 0;
	change(store, slot / BITS, mask, 1);
	return 1;
}

void swapstore_grow_by_small_pages(struct swapstore *store, int small)
{
	bool wanted = small != 0;

	if (store->fd >= 0 || store->small == wanted)
		return;
	/* A kernel without huge pages refuses, and has no others anyway. */
	madvise(store->pages.memory, store->pages.size, wanted ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	store->small = wanted;
}

uint64_t swapstore_bytes(const struct swapstore *store)
{
	if (store->fd < 0)
		return pagemap_bytes(&store->pages);
	return bytes_of_file(store->fd, 0, store->slots * SWAPSTORE_SLOT);
}

uint64_t swapstore_follow(struct swapstore *store, int anew)
{
	return swapcount_look(&store->count, anew ? 0 : FOLLOW_NS);
}
