/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "host/guard.h"
#include "virtio/blockfile.h"
#include "virtio/serve.h"

enum {
	QUEUE_SIZE = 256,
	/* Ranges of one request, and sectors in each. */
	MAX_DISCARD_RANGES = 32,
	MAX_DISCARD_SECTORS = 1 << 22,
	MAX_ZEROES_RANGES = 1,
	MAX_ZEROES_SECTORS = 1 << 16,
	PHYSICAL_BLOCK_EXPONENT = 3, /* 4 KiB: what the host's page cache works in */
};

/* The queue's chain, as far as it is to be done yet. */
struct request {
	uint32_t type;
	uint8_t *status;  /* where its outcome goes */
	uint32_t room;    /* writable bytes, that one among them */
	uint64_t bytes;   /* of data, in all */
	uint64_t offset;  /* on the disk, of what comes next */
	uint32_t ranges;  /* of a discard or write-zeroes: how many there are */
	uint32_t range;   /* which one is next, */
	uint64_t cleared; /* and how many bytes of it are done */
	struct virtio_blk_discard_write_zeroes list[MAX_DISCARD_RANGES];
};

/* An outcome that is no status: there is more to do. */
enum { UNFINISHED = -1 };

struct virtio_blk {
	struct virtio_device device;
	struct request request;
	struct blockfile file;
	uint64_t sectors;
	char serial[VIRTIO_BLK_SERIAL_SIZE];
	uint8_t writeback; /* atomic; only counts while the driver has CONFIG_WCE */
	virtio_blk_observer *on_write;
	virtio_blk_observer *on_discard;
	void *observer;
	virtio_blk_enter *enter;
	virtio_blk_leave *leave;
	void *sharer;
};

static struct virtio_blk *blk_of(struct virtio_device *device)
{
	return (struct virtio_blk *)((char *)device - offsetof(struct virtio_blk, device));
}

static bool inside(const struct virtio_blk *blk, uint64_t sector, uint64_t count)
{
	return count <= blk->sectors && sector <= blk->sectors - count;
}

/* Whole sectors that exist. */
static bool addressable(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
	return bytes % VIRTIO_BLK_SECTOR == 0 && inside(blk, sector, bytes / VIRTIO_BLK_SECTOR);
}

/* Without a way to flush, or with the write cache off, a completed write must be stable
 * (section 5.2.6.2). */
static bool write_through(struct virtio_blk *blk)
{
	if (virtio_has(&blk->device, VIRTIO_BLK_F_CONFIG_WCE))
		return !__atomic_load_n(&blk->writeback, __ATOMIC_RELAXED);
	return !virtio_has(&blk->device, VIRTIO_BLK_F_FLUSH);
}

static void tell(virtio_blk_observer *observer, void *opaque, uint64_t sector, uint64_t count)
{
	if (observer)
		observer(opaque, sector, count);
}

static void tell_of_write(const struct virtio_blk *blk, uint64_t offset, uint64_t bytes)
{
	uint64_t sector = offset / VIRTIO_BLK_SECTOR;
	uint64_t end = (offset + bytes + VIRTIO_BLK_SECTOR - 1) / VIRTIO_BLK_SECTOR;

	tell(blk->on_write, blk->observer, sector, end - sector);
}

static bool hold_memory(const struct virtio_blk *blk)
{
	return !blk->enter || blk->enter(blk->sharer);
}

static void let_go(const struct virtio_blk *blk)
{
	if (blk->leave)
		blk->leave(blk->sharer);
}

/* A piece of a read or a write: bytes, or -errno. */
static ssize_t move_piece(struct virtio_blk *blk, struct virtqueue_chain *chain)
{
	uint64_t offset = blk->request.offset;
	ssize_t done;

	if (blk->request.type == VIRTIO_BLK_T_IN)
		return blockfile_read(&blk->file, &chain->writable, offset);
	done = blockfile_write(&blk->file, &chain->readable, offset, write_through(blk));
	if (done > 0)
		tell_of_write(blk, offset, (uint64_t)done);
	return done;
}

static int move(struct virtio_blk *blk, struct virtio_queue *queue)
{
	bool reads = blk->request.type == VIRTIO_BLK_T_IN;
	struct virtqueue_chain *chain = queue->chain;
	const struct iovec_list *data = reads ? &chain->writable : &chain->readable;

	while (data->bytes) {
		ssize_t done = -EIO;

		if (hold_memory(blk)) {
			done = move_piece(blk, chain);
			let_go(blk);
		}
		if (done < 0)
			return VIRTIO_BLK_S_IOERR;
		blk->request.offset += (uint64_t)done;
		virtio_spend(queue, (uint64_t)done);
		if (data->bytes && virtio_turn_is_over(queue))
			return UNFINISHED;
	}
	virtio_count(reads ? &blk->device.stats.bytes_to_guest
	                   : &blk->device.stats.bytes_from_guest,
	             blk->request.bytes);
	return VIRTIO_BLK_S_OK;
}

static int begin_move(struct virtio_blk *blk, struct virtio_queue *queue, uint64_t sector)
{
	struct request *request = &blk->request;
	bool reads = request->type == VIRTIO_BLK_T_IN;

	request->bytes = reads ? queue->chain->writable.bytes : queue->chain->readable.bytes;
	request->offset = sector * VIRTIO_BLK_SECTOR;
	if ((!reads && blk->file.readonly) || !addressable(blk, sector, request->bytes))
		return VIRTIO_BLK_S_IOERR;
	return UNFINISHED;
}

static int do_get_id(struct virtio_blk *blk, struct iovec_list *to)
{
	if (!to->bytes)
		return VIRTIO_BLK_S_IOERR;
	if (iovec_put(to, blk->serial, sizeof(blk->serial)) < sizeof(blk->serial) && to->bytes)
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

static int check_range(const struct virtio_blk *blk, uint32_t type,
                       const struct virtio_blk_discard_write_zeroes *range)
{
	bool discard = type == VIRTIO_BLK_T_DISCARD;
	uint32_t flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	uint32_t limit = discard ? MAX_DISCARD_SECTORS : MAX_ZEROES_SECTORS;

	if (range->flags & ~flags)
		return VIRTIO_BLK_S_UNSUPP;
	if (range->num_sectors > limit || !inside(blk, range->sector, range->num_sectors))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/* A piece of a discard or write-zeroes: bytes, or -errno. */
static ssize_t clear_piece(struct virtio_blk *blk, bool unmap, uint64_t offset, uint64_t length)
{
	ssize_t done;

	if (blk->request.type == VIRTIO_BLK_T_DISCARD) {
		done = blockfile_discard(&blk->file, offset, length);
		if (done > 0)
			tell(blk->on_discard, blk->observer, offset / VIRTIO_BLK_SECTOR,
			     (uint64_t)done / VIRTIO_BLK_SECTOR);
	} else {
		done = blockfile_zero(&blk->file, offset, length, unmap);
		if (done > 0)
			tell_of_write(blk, offset, (uint64_t)done);
	}
	return done;
}

/* The cost to the turn. A piece of a discard counts as much as a piece of a read. */
static uint64_t cost_of_clearing(uint32_t type, uint64_t bytes)
{
	return type == VIRTIO_BLK_T_DISCARD ? BLOCKFILE_PIECE : bytes;
}

static int clear(struct virtio_blk *blk, struct virtio_queue *queue)
{
	struct request *request = &blk->request;

	while (request->range < request->ranges) {
		const struct virtio_blk_discard_write_zeroes *range =
		        &request->list[request->range];
		uint64_t offset = range->sector * VIRTIO_BLK_SECTOR + request->cleared;
		uint64_t left = (uint64_t)range->num_sectors * VIRTIO_BLK_SECTOR - request->cleared;
		ssize_t done = 0;

		if (left && hold_memory(blk)) {
			done = clear_piece(blk, range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
			                   offset, left);
			let_go(blk);
		} else if (left) {
			done = -EIO;
		}
		if (done < 0)
			return VIRTIO_BLK_S_IOERR;
		request->cleared += (uint64_t)done;
		if ((uint64_t)done == left) {
			request->range++;
			request->cleared = 0;
		}
		virtio_spend(queue, cost_of_clearing(request->type, (uint64_t)done));
		if (request->range < request->ranges && virtio_turn_is_over(queue))
			return UNFINISHED;
	}
	if (request->type == VIRTIO_BLK_T_WRITE_ZEROES && write_through(blk) &&
	    blockfile_flush(&blk->file))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/* All ranges are checked before the first one is touched. */
static int begin_clear(struct virtio_blk *blk, struct iovec_list *from)
{
	struct request *request = &blk->request;
	size_t limit =
	        request->type == VIRTIO_BLK_T_DISCARD ? MAX_DISCARD_RANGES : MAX_ZEROES_RANGES;
	size_t bytes = from->bytes, count = bytes / sizeof(*request->list);

	if (blk->file.readonly || !count || bytes % sizeof(*request->list) || count > limit)
		return VIRTIO_BLK_S_IOERR;
	if (iovec_take(from, request->list, bytes) != bytes)
		return VIRTIO_BLK_S_IOERR;
	request->ranges = (uint32_t)count;
	request->range = 0;
	request->cleared = 0;
	for (size_t i = 0; i < count; i++) {
		int status = check_range(blk, request->type, &request->list[i]);

		if (status != VIRTIO_BLK_S_OK)
			return status;
	}
	return UNFINISHED;
}

static int begin_request(struct virtio_blk *blk, struct virtio_queue *queue, uint64_t sector)
{
	switch (blk->request.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return begin_move(blk, queue, sector);
	case VIRTIO_BLK_T_FLUSH:
		return blockfile_flush(&blk->file) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		return do_get_id(blk, &queue->chain->writable);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return begin_clear(blk, &queue->chain->readable);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* Those that may take more than a turn. */
static int go_on(struct virtio_blk *blk, struct virtio_queue *queue)
{
	if (blk->request.type == VIRTIO_BLK_T_IN || blk->request.type == VIRTIO_BLK_T_OUT)
		return move(blk, queue);
	return clear(blk, queue);
}

/* A header in front, a status byte at the end, and data in between, however the driver cut them
 * into buffers. UNFINISHED, the status of a request whose header is gone, or -violation. */
static int take_header(struct virtio_blk *blk, struct virtqueue_chain *chain, uint64_t *sector)
{
	struct request *request = &blk->request;
	struct virtio_blk_outhdr header;

	request->status = iovec_last(&chain->writable);
	request->room = (uint32_t)chain->writable.bytes;
	if (chain->readable.bytes < sizeof(header) || !request->status)
		return -VIRTQUEUE_BAD_REQUEST;
	iovec_cut(&chain->writable, 1);
	if (iovec_take(&chain->readable, &header, sizeof(header)) != sizeof(header))
		return VIRTIO_BLK_S_IOERR;
	request->type = header.type;
	*sector = header.sector;
	return UNFINISHED;
}

static void finish(struct virtio_blk *blk, const struct virtqueue_chain *chain, uint8_t status,
                   uint32_t *written)
{
	const struct request *request = &blk->request;

	/* Where it has no place any more, nothing was written for certain. */
	if (!guard_copy(request->status, &status, 1)) {
		virtio_count(&blk->device.stats.errors, 1);
		return;
	}
	if (status != VIRTIO_BLK_S_OK)
		virtio_count(&blk->device.stats.errors, 1);
	/* Only what was filled without a gap counts: a failed read promises nothing. */
	if (request->room == 1 || (status == VIRTIO_BLK_S_OK && !chain->writable.bytes))
		*written = request->room;
}

static int serve(struct virtio_queue *queue, uint32_t *written)
{
	struct virtio_blk *blk = blk_of(queue->device);
	int outcome = UNFINISHED;
	uint64_t sector;

	if (!queue->held) {
		outcome = take_header(blk, queue->chain, &sector);
		if (outcome == -VIRTQUEUE_BAD_REQUEST)
			return outcome;
		if (outcome == UNFINISHED)
			outcome = begin_request(blk, queue, sector);
	}
	if (outcome == UNFINISHED)
		outcome = go_on(blk, queue);
	if (outcome == UNFINISHED)
		return VIRTIO_SERVE_MORE;
	finish(blk, queue->chain, (uint8_t)outcome, written);
	return 0;
}

static void kick(struct virtio_device *device, struct virtio_queue *queue)
{
	(void)device;
	virtio_serve(queue, serve);
}

static void set_writeback(struct virtio_blk *blk, uint8_t writeback)
{
	__atomic_store_n(&blk->writeback, writeback, __ATOMIC_RELAXED);
	virtio_store_config(&blk->device, offsetof(struct virtio_blk_config, wce), &writeback, 1);
}

static void stop(struct virtio_device *device)
{
	set_writeback(blk_of(device), 1);
}

static void write_config(struct virtio_device *device, uint32_t offset, const uint8_t *bytes,
                         uint32_t length)
{
	if (offset == offsetof(struct virtio_blk_config, wce) && length == 1 &&
	    virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE))
		set_writeback(blk_of(device), bytes[0] & 1);
}

static void destroy(struct virtio_device *device)
{
	virtio_release(device);
	free(blk_of(device));
}

static const struct virtio_operations operations = {
        .kick = kick,
        .stop = stop,
        .write_config = write_config,
        .destroy = destroy,
};

static void describe(struct virtio_blk *blk)
{
	uint32_t align = blk->file.logical_block / VIRTIO_BLK_SECTOR;
	struct virtio_blk_config config = {
	        .capacity = blk->sectors,
	        .seg_max = QUEUE_SIZE - 2, /* header and status take one each */
	        .blk_size = VIRTIO_BLK_SECTOR,
	        .physical_block_exp = PHYSICAL_BLOCK_EXPONENT,
	        .wce = 1,
	};

	blk->device.offered |= 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE |
	                       1ULL << VIRTIO_BLK_F_TOPOLOGY | 1ULL << VIRTIO_BLK_F_FLUSH;
	if (blk->file.readonly) {
		blk->device.offered |= 1ULL << VIRTIO_BLK_F_RO;
	} else {
		blk->device.offered |= 1ULL << VIRTIO_BLK_F_CONFIG_WCE |
		                       1ULL << VIRTIO_BLK_F_DISCARD |
		                       1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
		config.max_discard_sectors = MAX_DISCARD_SECTORS;
		config.max_discard_seg = MAX_DISCARD_RANGES;
		config.discard_sector_alignment = align > 8 ? align : 8;
		config.max_write_zeroes_sectors = MAX_ZEROES_SECTORS;
		config.max_write_zeroes_seg = MAX_ZEROES_RANGES;
		config.write_zeroes_may_unmap = 1;
	}
	/* The rest belongs to features that are not offered. */
	blk->device.config_size = offsetof(struct virtio_blk_config, unused1);
	memcpy(blk->device.config, &config, blk->device.config_size);
	blk->writeback = 1;
}

static struct virtio_device *create(const struct virtio_wiring *wiring,
                                    const struct blockfile *file, uint64_t sectors,
                                    const char *serial)
{
	struct virtio_blk *blk;
	int ret;

	if (sectors > INT64_MAX / VIRTIO_BLK_SECTOR) {
		errno = EFBIG;
		return NULL;
	}
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return NULL;
	blk->file = *file;
	ret = virtio_init(&blk->device, VIRTIO_ID_BLOCK, &operations, wiring, 1);
	if (!ret)
		ret = virtio_add_queue(&blk->device, QUEUE_SIZE);
	if (ret) {
		virtio_release(&blk->device);
		free(blk);
		errno = -ret;
		return NULL;
	}
	blk->sectors = sectors;
	memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	describe(blk);
	return &blk->device;
}

struct virtio_device *virtio_blk_create(const struct virtio_wiring *wiring, int fd,
                                        uint64_t sectors, int readonly, const char *serial)
{
	struct blockfile file;
	int ret = blockfile_init(&file, fd, readonly);

	if (ret) {
		errno = -ret;
		return NULL;
	}
	return create(wiring, &file, sectors, serial);
}

struct virtio_device *virtio_blk_create_memory(const struct virtio_wiring *wiring, void *disk,
                                               uint64_t sectors, int readonly, const char *serial)
{
	struct blockfile file;

	blockfile_init_memory(&file, disk, readonly);
	return create(wiring, &file, sectors, serial);
}

void virtio_blk_keep_blocks(struct virtio_device *device)
{
	blk_of(device)->file.keep = true;
}

struct observation {
	struct virtio_blk *blk;
	virtio_blk_observer *on_write;
	virtio_blk_observer *on_discard;
	void *opaque;
};

static void observe(void *opaque)
{
	const struct observation *new = opaque;

	new->blk->on_write = new->on_write;
	new->blk->on_discard = new->on_discard;
	new->blk->observer = new->opaque;
}

void virtio_blk_observe(struct virtio_device *device, virtio_blk_observer *on_write,
                        virtio_blk_observer *on_discard, void *opaque)
{
	struct observation new = {blk_of(device), on_write, on_discard, opaque};

	iothread_call(device->thread, observe, &new);
}

void virtio_blk_close(void *device, int closed)
{
	struct virtio_blk *blk = blk_of(device);
	uint64_t capacity = closed ? 0 : blk->sectors;

	virtio_update_config(&blk->device, offsetof(struct virtio_blk_config, capacity), &capacity,
	                     sizeof(capacity));
}

void virtio_blk_share(struct virtio_device *device, virtio_blk_enter *enter,
                      virtio_blk_leave *leave, void *opaque)
{
	struct virtio_blk *blk = blk_of(device);

	blk->enter = enter;
	blk->leave = leave;
	blk->sharer = opaque;
}
