/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contents of a swap disk, in memory or a file: slots of 4 KiB, and which of them hold
 * something. Slot k is what Linux calls swap offset k on a swap area that takes a whole disk.
 *
 * The disk tells of its writes and discards. The guest may also fill a slot through the aperture,
 * which nobody sees; then the host is asked whether it has given memory, or blocks, for it.
 */
#ifndef PYVMM_SWAP_STORE_H
#define PYVMM_SWAP_STORE_H

#include <stdint.h>

/* cffi: begin */
enum { SWAPSTORE_SLOT = 4096 };

struct swapstore;

/* Has the file system set the blocks of a file's first `size` bytes aside: 0, -ENOSPC, or another
 * -errno where it cannot. Of tmpfs, where that would take the memory, -EOPNOTSUPP. */
int swapstore_allocate(int fd, uint64_t size);

/* Over a file of `size` bytes, whole slots; the descriptor stays the caller's and must outlive it.
 * NULL and errno on failure. */
struct swapstore *swapstore_create(int fd, uint64_t size);

/* The same over private anonymous memory of this process. */
struct swapstore *swapstore_create_memory(void *memory, uint64_t size);
void swapstore_destroy(struct swapstore *store);

/* The disk's thread calls these after a change: of type virtio_blk_observer, with the store. */
void swapstore_on_write(void *store, uint64_t sector, uint64_t count);
void swapstore_on_discard(void *store, uint64_t sector, uint64_t count);

/* The disk's thread holds the store for each piece of a request: 1, or 0 while it is taken. Of
 * types virtio_blk_enter and virtio_blk_leave. */
int swapstore_enter(void *store);
void swapstore_leave(void *store);

/* Told of each change, of type virtio_blk_close with the disk; NULL: nobody. Before the guest runs.
 */
typedef void swapstore_on_take(void *opaque, int taken);
void swapstore_tell(struct swapstore *store, swapstore_on_take *on_take, void *opaque);

/* Takes the store from the disk: 0; -EBUSY if it is taken, or if what the disk wrote beyond slot 0,
 * or may have, would be lost. */
int swapstore_take(struct swapstore *store);
void swapstore_give(struct swapstore *store);

/* Gives slots back to the host while the store is taken: 0; -EINVAL for a range that is not there,
 * for slot 0, and for more than SYMBIOTIC_SWAP_DISCARD_SLOTS; -EPERM; -errno of the file system. */
int swapstore_discard(struct swapstore *store, uint64_t slot, uint64_t count);

/* Blocks of its file were set aside: a discard keeps them. Before the guest runs. */
void swapstore_keep_blocks(struct swapstore *store);

uint64_t swapstore_slots(const struct swapstore *store);

/* True if the slot exists and holds data. Any thread. At most one system call, and none once the
 * answer was yes. */
int swapstore_written(struct swapstore *store, uint64_t slot);

/* From now on memory that was not given yet is given page by page, or in huge pages again. What is
 * there stays as it is. One thread at a time. */
void swapstore_grow_by_small_pages(struct swapstore *store, int small);

/* Bytes that the host has given for it, 0 if it cannot say. For memory it is a look at all of it:
 * 0.16 s for 1 TiB. */
uint64_t swapstore_bytes(const struct swapstore *store);

/* The same for somebody who asks again and again: counted for 10 ms at most, and for the rest what
 * the last calls found (swap/count.h), or all of it anew. One thread at a time. */
uint64_t swapstore_follow(struct swapstore *store, int anew);
/* cffi: end */

#endif
