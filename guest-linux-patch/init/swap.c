/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <unistd.h>

#include "option.h"
#include "say.h"
#include "swap.h"

#define PAGE       4096
#define MAGIC      "SWAPSPACE2"
#define MAGIC_SIZE (sizeof(MAGIC) - 1)
#define LABEL      "pyvmm"
#define VERSION    1
/* Linux takes no swap area with fewer pages. */
#define LEAST_PAGES 10

/* The first page of a swap area: include/linux/swap.h, union swap_header, version 1. */
struct signature {
	char boot[1024];
	uint32_t version;
	uint32_t last_page;
	uint32_t bad_pages;
	unsigned char uuid[16];
	char label[16];
	char padding[PAGE - 1024 - 3 * 4 - 2 * 16 - MAGIC_SIZE];
	char magic[MAGIC_SIZE];
} __attribute__((packed));

_Static_assert(sizeof(struct signature) == PAGE, "the magic ends with the page");

/* Of a file in a disk's folder of /sys/block; an empty one if there is none. */
static void read_attribute(const char *disk, const char *name, char *value, size_t size)
{
	char path[sizeof("/sys/block//") + 256 + 32];
	ssize_t got = -1;

	snprintf(path, sizeof(path), "/sys/block/%.255s/%.31s", disk, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, value, size - 1);
		close(fd);
	}
	value[got > 0 ? got : 0] = '\0';
	value[strcspn(value, "\n")] = '\0';
}

/* The name of the disk with that serial number. */
static bool find_disk(const char *serial, char *name, size_t size)
{
	bool found = false;
	DIR *disks = opendir("/sys/block");
	if (!disks)
		return false;

	for (const struct dirent *entry; !found && (entry = readdir(disks));) {
		char value[64];
		if (*entry->d_name == '.')
			continue;
		read_attribute(entry->d_name, "serial", value, sizeof(value));
		found = !strcmp(value, serial);
		if (found)
			snprintf(name, size, "%s", entry->d_name);
	}
	closedir(disks);
	return found;
}

/*
 * The disk is memory. Of one that turns, the kernel would read ahead what lies next to each other,
 * and would not give freed pages back.
 */
static void has_no_seeks(const char *disk)
{
	char path[sizeof("/sys/block//queue/rotational") + 256];

	snprintf(path, sizeof(path), "/sys/block/%.255s/queue/rotational", disk);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!write(fd, "0", 1);
	close(fd);
}

static bool is_swap(const struct signature *head)
{
	return head->version == VERSION && !memcmp(head->magic, MAGIC, MAGIC_SIZE);
}

static bool is_empty(const struct signature *head)
{
	static const struct signature zero;

	return !memcmp(head, &zero, sizeof(zero));
}

/* 0, or -errno: EEXIST if the disk holds something else, ENOMEDIUM if it has no sectors now. */
static int sign(int fd)
{
	static struct signature head;
	uint64_t bytes;

	if (ioctl(fd, BLKGETSIZE64, &bytes))
		return -errno;
	if (!bytes)
		return -ENOMEDIUM;
	if (pread(fd, &head, sizeof(head), 0) != sizeof(head))
		return errno ? -errno : -EIO;
	if (is_swap(&head))
		return 0;
	if (!is_empty(&head))
		return -EEXIST;
	if (bytes / PAGE < LEAST_PAGES)
		return -ENOSPC;
	head.version = VERSION;
	head.last_page = bytes / PAGE > UINT32_MAX ? UINT32_MAX : (uint32_t)(bytes / PAGE - 1);
	memcpy(head.label, LABEL, sizeof(LABEL));
	memcpy(head.magic, MAGIC, MAGIC_SIZE);
	if (pwrite(fd, &head, sizeof(head), 0) != sizeof(head) || fsync(fd))
		return errno ? -errno : -EIO;
	return 0;
}

static int prepare(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	errno = 0;
	int result = sign(fd);
	close(fd);
	return result;
}

void swap_on(void)
{
	char serial[64], disk[256], path[sizeof("/dev/") + sizeof(disk)];

	if (!option("pyvmm.swap", serial, sizeof(serial)) || !*serial)
		return;
	if (!find_disk(serial, disk, sizeof(disk))) {
		say("no swap: no disk has the serial number %s", serial);
		return;
	}
	has_no_seeks(disk);
	snprintf(path, sizeof(path), "/dev/%s", disk);
	const int error = prepare(path);
	/* A driver that moves pages to the disk's memory has it closed meanwhile. */
	if (error == -ENOMEDIUM)
		return;
	if (error == -EEXIST)
		say("no swap: %s holds something else, and is not overwritten", path);
	else if (error)
		say("no swap: cannot prepare %s: %s", path, strerror(-error));
	else if (swapon(path, SWAP_FLAG_DISCARD))
		say("no swap: swapon %s: %s", path, strerror(errno));
}
