/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio_blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "blockfile.h"

enum {
	QUEUE_SIZE = 256,
	/* Ranges of one request, and sectors in each. Zeroes may have to be written out, and how
	 * long that can hold the thread should be bounded. */
	MAX_DISCARD_RANGES = 32,
	MAX_DISCARD_SECTORS = 1 << 22,
	MAX_ZEROES_RANGES = 1,
	MAX_ZEROES_SECTORS = 1 << 16,
	PHYSICAL_BLOCK_EXPONENT = 3, /* 4 KiB: what the host's page cache works in */
};

struct virtio_blk {
	struct virtio_device device;
	struct blockfile file;
	uint64_t sectors;
	char serial[VIRTIO_BLK_SERIAL_SIZE];
	uint8_t writeback; /* atomic; only counts while the driver has CONFIG_WCE */
	virtio_blk_observer *on_write;
	virtio_blk_observer *on_discard;
	void *observer;
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

static uint8_t do_read(struct virtio_blk *blk, uint64_t sector, struct iovec_list *to)
{
	uint64_t bytes = to->bytes;

	if (!addressable(blk, sector, bytes) ||
	    blockfile_read(&blk->file, to, sector * VIRTIO_BLK_SECTOR))
		return VIRTIO_BLK_S_IOERR;
	virtio_count(&blk->device.stats.bytes_to_guest, bytes);
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_write(struct virtio_blk *blk, uint64_t sector, struct iovec_list *from)
{
	uint64_t bytes = from->bytes;

	if (blk->file.readonly || !addressable(blk, sector, bytes) ||
	    blockfile_write(&blk->file, from, sector * VIRTIO_BLK_SECTOR, write_through(blk)))
		return VIRTIO_BLK_S_IOERR;
	tell(blk->on_write, blk->observer, sector, bytes / VIRTIO_BLK_SECTOR);
	virtio_count(&blk->device.stats.bytes_from_guest, bytes);
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_get_id(struct virtio_blk *blk, struct iovec_list *to)
{
	if (!to->bytes)
		return VIRTIO_BLK_S_IOERR;
	iovec_put(to, blk->serial, sizeof(blk->serial));
	return VIRTIO_BLK_S_OK;
}

static uint8_t check_range(const struct virtio_blk *blk, uint32_t type,
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

static uint8_t clear_range(struct virtio_blk *blk, uint32_t type,
                           const struct virtio_blk_discard_write_zeroes *range)
{
	uint64_t offset = range->sector * VIRTIO_BLK_SECTOR;
	uint64_t length = (uint64_t)range->num_sectors * VIRTIO_BLK_SECTOR;
	int ret;

	if (!length)
		return VIRTIO_BLK_S_OK;
	if (type == VIRTIO_BLK_T_DISCARD) {
		ret = blockfile_discard(&blk->file, offset, length);
		tell(blk->on_discard, blk->observer, range->sector, range->num_sectors);
	} else {
		ret = blockfile_zero(&blk->file, offset, length,
		                     range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
		                     write_through(blk));
		tell(blk->on_write, blk->observer, range->sector, range->num_sectors);
	}
	return ret ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

/* All ranges are checked before the first one is touched. */
static uint8_t do_clear(struct virtio_blk *blk, uint32_t type, struct iovec_list *from)
{
	struct virtio_blk_discard_write_zeroes ranges[MAX_DISCARD_RANGES];
	size_t limit = type == VIRTIO_BLK_T_DISCARD ? MAX_DISCARD_RANGES : MAX_ZEROES_RANGES;
	size_t bytes = from->bytes, count = bytes / sizeof(*ranges);

	if (blk->file.readonly || !count || bytes % sizeof(*ranges) || count > limit)
		return VIRTIO_BLK_S_IOERR;
	iovec_take(from, ranges, bytes);
	for (size_t i = 0; i < count; i++) {
		uint8_t status = check_range(blk, type, &ranges[i]);

		if (status != VIRTIO_BLK_S_OK)
			return status;
	}
	for (size_t i = 0; i < count; i++) {
		uint8_t status = clear_range(blk, type, &ranges[i]);

		if (status != VIRTIO_BLK_S_OK)
			return status;
	}
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_request(struct virtio_blk *blk, const struct virtio_blk_outhdr *header,
                          struct virtqueue_chain *chain)
{
	switch (header->type) {
	case VIRTIO_BLK_T_IN:
		return do_read(blk, header->sector, &chain->writable);
	case VIRTIO_BLK_T_OUT:
		return do_write(blk, header->sector, &chain->readable);
	case VIRTIO_BLK_T_FLUSH:
		return blockfile_flush(&blk->file) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		return do_get_id(blk, &chain->writable);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return do_clear(blk, header->type, &chain->readable);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* A header in front, a status byte at the end, and data in between, however the driver cut them
 * into buffers. */
static int serve(struct virtio_device *device, struct virtqueue_chain *chain, uint32_t *written)
{
	struct virtio_blk *blk = blk_of(device);
	struct virtio_blk_outhdr header;
	uint8_t *where = iovec_last(&chain->writable), status;
	uint64_t room = chain->writable.bytes;

	if (iovec_take(&chain->readable, &header, sizeof(header)) != sizeof(header) || !where)
		return -VIRTQUEUE_BAD_REQUEST;
	iovec_cut(&chain->writable, 1);
	status = do_request(blk, &header, chain);
	*where = status;
	if (status != VIRTIO_BLK_S_OK)
		virtio_count(&device->stats.errors, 1);
	/* Only what was filled without a gap counts: a failed read promises nothing. */
	if (room == 1 || (status == VIRTIO_BLK_S_OK && !chain->writable.bytes))
		*written = (uint32_t)room;
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
	/* What follows belongs to features that are not offered. */
	blk->device.config_size = offsetof(struct virtio_blk_config, unused1);
	memcpy(blk->device.config, &config, blk->device.config_size);
	blk->writeback = 1;
}

static struct virtio_device *create(const struct guest_memory *memory, struct iothread *thread,
                                    int irq_fd, const struct blockfile *file, uint64_t sectors,
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
	ret = virtio_init(&blk->device, VIRTIO_ID_BLOCK, &operations, memory, thread, irq_fd);
	if (!ret)
		ret = virtio_add_queue(&blk->device, QUEUE_SIZE);
	if (ret) {
		destroy(&blk->device);
		errno = -ret;
		return NULL;
	}
	blk->sectors = sectors;
	memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	describe(blk);
	return &blk->device;
}

struct virtio_device *virtio_blk_create(const struct guest_memory *memory, struct iothread *thread,
                                        int irq_fd, int fd, uint64_t sectors, int readonly,
                                        const char *serial)
{
	struct blockfile file;
	int ret = blockfile_init(&file, fd, readonly);

	if (ret) {
		errno = -ret;
		return NULL;
	}
	return create(memory, thread, irq_fd, &file, sectors, serial);
}

struct virtio_device *virtio_blk_create_memory(const struct guest_memory *memory,
                                               struct iothread *thread, int irq_fd, void *disk,
                                               uint64_t sectors, int readonly, const char *serial)
{
	struct blockfile file;

	blockfile_init_memory(&file, disk, readonly);
	return create(memory, thread, irq_fd, &file, sectors, serial);
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
