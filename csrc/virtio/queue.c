/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/queue.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

static const char *const violation_names[VIRTQUEUE_VIOLATIONS] = {
        [VIRTQUEUE_BAD_SIZE] = "bad queue size",
        [VIRTQUEUE_BAD_RING] = "bad ring address",
        [VIRTQUEUE_BAD_AVAIL] = "available index jumped",
        [VIRTQUEUE_BAD_INDEX] = "bad descriptor index",
        [VIRTQUEUE_LONG_CHAIN] = "chain too long",
        [VIRTQUEUE_BAD_BUFFER] = "buffer outside memory",
        [VIRTQUEUE_READONLY_BUFFER] = "writable buffer in read-only memory",
        [VIRTQUEUE_LARGE_CHAIN] = "chain of 4 GiB or more",
        [VIRTQUEUE_BAD_ORDER] = "readable buffer after writable",
        [VIRTQUEUE_BAD_INDIRECT] = "bad indirect table",
        [VIRTQUEUE_NESTED_INDIRECT] = "nested indirect table",
        [VIRTQUEUE_BAD_REQUEST] = "malformed request",
};

const char *virtqueue_violation_name(uint32_t violation)
{
	return violation < VIRTQUEUE_VIOLATIONS ? violation_names[violation] : NULL;
}

struct virtqueue_chain *virtqueue_chain_create(uint32_t capacity)
{
	struct virtqueue_chain *chain;

	chain = calloc(1, sizeof(*chain) + capacity * sizeof(struct iovec));
	if (chain)
		chain->capacity = capacity;
	return chain;
}

/* Bytes of each ring; the last field of two of them is the event index. */
static uint64_t desc_bytes(uint32_t size)
{
	return sizeof(struct vring_desc) * (uint64_t)size;
}

static uint64_t avail_bytes(uint32_t size)
{
	return sizeof(struct vring_avail) + sizeof(uint16_t) * ((uint64_t)size + 1);
}

static uint64_t used_bytes(uint32_t size)
{
	return sizeof(struct vring_used) + sizeof(struct vring_used_elem) * (uint64_t)size +
	       sizeof(uint16_t);
}

static const uint16_t *used_event(const struct virtqueue *queue)
{
	return &queue->avail->ring[queue->size];
}

static uint16_t *avail_event(const struct virtqueue *queue)
{
	return (uint16_t *)&queue->used->ring[queue->size];
}

static int map_rings(struct virtqueue *queue, const struct guest_memory *memory)
{
	if (queue->desc_gpa % VRING_DESC_ALIGN_SIZE || queue->avail_gpa % VRING_AVAIL_ALIGN_SIZE ||
	    queue->used_gpa % VRING_USED_ALIGN_SIZE)
		return -VIRTQUEUE_BAD_RING;
	queue->desc = guest_memory_steady_at(memory, queue->desc_gpa, desc_bytes(queue->size));
	queue->avail = guest_memory_steady_at(memory, queue->avail_gpa, avail_bytes(queue->size));
	queue->used = guest_memory_ram_at(memory, queue->used_gpa, used_bytes(queue->size));
	if (!queue->desc || !queue->avail || !queue->used)
		return -VIRTQUEUE_BAD_RING;
	return 0;
}

int virtqueue_start(struct virtqueue *queue, const struct guest_memory *memory, uint64_t features)
{
	int ret;

	if (!queue->size || queue->size > queue->size_max || (queue->size & (queue->size - 1)))
		return -VIRTQUEUE_BAD_SIZE;
	ret = map_rings(queue, memory);
	if (ret) {
		virtqueue_stop(queue);
		return ret;
	}
	queue->memory = memory;
	queue->event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
	queue->indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	queue->kicks_off = false;
	queue->next_avail = 0;
	queue->avail_idx = 0;
	queue->used_idx = 0;
	queue->signaled_idx = 0;
	return 0;
}

void virtqueue_stop(struct virtqueue *queue)
{
	queue->desc = NULL;
	queue->avail = NULL;
	queue->used = NULL;
}

bool virtqueue_is_live(const struct virtqueue *queue)
{
	return queue->used;
}

/* The one read of a descriptor. An indirect table need not be aligned, hence memcpy; the barrier
 * makes the compiler forget where the bytes came from. */
static struct vring_desc read_descriptor(const struct vring_desc *where)
{
	struct vring_desc copy;

	memcpy(&copy, where, sizeof(copy));
	__asm__ volatile("" : "+m"(copy));
	return copy;
}

static int resolve(const struct guest_memory *memory, const struct vring_desc *desc, void **where)
{
	if (!(desc->flags & VRING_DESC_F_WRITE)) {
		*where = guest_memory_at(memory, desc->addr, desc->len);
		return *where ? 0 : -VIRTQUEUE_BAD_BUFFER;
	}
	*where = guest_memory_at_writable(memory, desc->addr, desc->len);
	if (*where)
		return 0;
	return guest_memory_at(memory, desc->addr, desc->len) ? -VIRTQUEUE_READONLY_BUFFER
	                                                      : -VIRTQUEUE_BAD_BUFFER;
}

static int add_buffer(const struct virtqueue *queue, struct virtqueue_chain *chain,
                      const struct vring_desc *desc)
{
	struct iovec_list *readable = &chain->readable, *writable = &chain->writable;
	uint32_t count = readable->count + writable->count;
	struct iovec_list *list = readable;
	void *where;
	int ret;

	if (desc->flags & VRING_DESC_F_WRITE)
		list = writable;
	else if (writable->count)
		return -VIRTQUEUE_BAD_ORDER;
	if (count == chain->capacity)
		return -VIRTQUEUE_LONG_CHAIN;
	ret = resolve(queue->memory, desc, &where);
	if (ret)
		return ret;
	if (readable->bytes + writable->bytes + desc->len > UINT32_MAX)
		return -VIRTQUEUE_LARGE_CHAIN;
	chain->pieces[count] = (struct iovec){where, desc->len};
	if (!list->count)
		list->iov = &chain->pieces[count];
	list->count++;
	list->bytes += desc->len;
	return 0;
}

static int walk_indirect(const struct virtqueue *queue, struct virtqueue_chain *chain,
                         const struct vring_desc *outer)
{
	uint32_t size = outer->len / sizeof(struct vring_desc), seen = 0, index = 0;
	const struct vring_desc *table;

	if (!queue->indirect || (outer->flags & VRING_DESC_F_NEXT) || !size ||
	    outer->len % sizeof(struct vring_desc))
		return -VIRTQUEUE_BAD_INDIRECT;
	table = guest_memory_steady_at(queue->memory, outer->addr, outer->len);
	if (!table)
		return -VIRTQUEUE_BAD_INDIRECT;
	for (;;) {
		struct vring_desc desc;
		int ret;

		if (index >= size)
			return -VIRTQUEUE_BAD_INDEX;
		if (seen++ == size)
			return -VIRTQUEUE_LONG_CHAIN;
		/* Bytes, not elements: the table may be unaligned. */
		desc = read_descriptor(
		        (const void *)((const uint8_t *)table + index * sizeof(struct vring_desc)));
		if (desc.flags & VRING_DESC_F_INDIRECT)
			return -VIRTQUEUE_NESTED_INDIRECT;
		ret = add_buffer(queue, chain, &desc);
		if (ret || !(desc.flags & VRING_DESC_F_NEXT))
			return ret;
		index = desc.next;
	}
}

static int walk(const struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint32_t seen = 0, index = chain->head;

	for (;;) {
		struct vring_desc desc;
		int ret;

		if (index >= queue->size)
			return -VIRTQUEUE_BAD_INDEX;
		if (seen++ == queue->size)
			return -VIRTQUEUE_LONG_CHAIN;
		desc = read_descriptor(&queue->desc[index]);
		if (desc.flags & VRING_DESC_F_INDIRECT)
			return walk_indirect(queue, chain, &desc);
		ret = add_buffer(queue, chain, &desc);
		if (ret || !(desc.flags & VRING_DESC_F_NEXT))
			return ret;
		index = desc.next;
	}
}

/* Looks at the driver's index again. Acquire: what it covers must not be read before it. Chains
 * that were popped and not completed count too, as they may be given back by virtqueue_unpop(). */
static int refresh(struct virtqueue *queue)
{
	uint16_t idx = __atomic_load_n(&queue->avail->idx, __ATOMIC_ACQUIRE);

	if ((uint16_t)(idx - queue->used_idx) > queue->size)
		return -VIRTQUEUE_BAD_AVAIL;
	queue->avail_idx = idx;
	return 0;
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	int ret = 0;

	if (queue->next_avail == queue->avail_idx)
		ret = refresh(queue);
	if (ret || queue->next_avail == queue->avail_idx)
		return ret;
	chain->head = __atomic_load_n(&queue->avail->ring[queue->next_avail & (queue->size - 1)],
	                              __ATOMIC_RELAXED);
	chain->readable = (struct iovec_list){chain->pieces, 0, 0};
	chain->writable = (struct iovec_list){chain->pieces, 0, 0};
	ret = walk(queue, chain);
	if (ret)
		return ret;
	queue->next_avail++;
	return 1;
}

void virtqueue_unpop(struct virtqueue *queue, uint16_t count)
{
	queue->next_avail -= count;
}

void virtqueue_fill(struct virtqueue *queue, uint16_t ahead, uint16_t head, uint32_t written)
{
	uint16_t at = (uint16_t)(queue->used_idx + ahead) & (queue->size - 1);

	queue->used->ring[at] = (struct vring_used_elem){.id = head, .len = written};
}

void virtqueue_publish(struct virtqueue *queue, uint16_t count)
{
	queue->used_idx += count;
	/* Release: the driver sees the buffers and the entries before the index that covers them.
	 */
	__atomic_store_n(&queue->used->idx, queue->used_idx, __ATOMIC_RELEASE);
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written)
{
	virtqueue_fill(queue, 0, head, written);
	virtqueue_publish(queue, 1);
}

bool virtqueue_wants_interrupt(struct virtqueue *queue)
{
	uint16_t before = queue->signaled_idx;

	queue->signaled_idx = queue->used_idx;
	if (before == queue->used_idx)
		return false;
	/* Either the driver sees the new index before it sleeps, or its wish is seen here: that
	 * needs the store of the index to be visible before the load below (section 2.7.7). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue->event_idx)
		return vring_need_event(__atomic_load_n(used_event(queue), __ATOMIC_RELAXED),
		                        queue->used_idx, before);
	return !(__atomic_load_n(&queue->avail->flags, __ATOMIC_RELAXED) &
	         VRING_AVAIL_F_NO_INTERRUPT);
}

void virtqueue_suppress_kicks(struct virtqueue *queue)
{
	/* With event indices it is enough not to move avail_event on. */
	if (queue->event_idx || queue->kicks_off)
		return;
	__atomic_store_n(&queue->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
	queue->kicks_off = true;
}

bool virtqueue_resume_kicks(struct virtqueue *queue)
{
	if (queue->event_idx) {
		__atomic_store_n(avail_event(queue), queue->avail_idx, __ATOMIC_RELAXED);
	} else if (queue->kicks_off) {
		__atomic_store_n(&queue->used->flags, 0, __ATOMIC_RELAXED);
		queue->kicks_off = false;
	}
	/* The mirror image of the fence above: ask for kicks first, then look once more. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&queue->avail->idx, __ATOMIC_RELAXED) != queue->avail_idx;
}
