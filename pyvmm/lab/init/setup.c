/* SPDX-License-Identifier: Apache-2.0 */
/* Modules, file systems, network and limits of the outer machine. */
#define _GNU_SOURCE
#include "setup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

#define BASE "/base" /* the host's tree, read only */
#define ROOT "/root" /* what becomes / */
#define PACKED                                                                                     \
	"/packed" /* is there when ROOT came with the initramfs: the host's tree cannot be had */

static void make_dirs(const char *path)
{
	char copy[4096];

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		fail("the path %s is too long", path);
	for (char *at = copy + 1; *at != '\0'; at++) {
		if (*at != '/')
			continue;
		*at = '\0';
		mkdir(copy, 0755);
		*at = '/';
	}
	mkdir(copy, 0755);
}

void mount_at(const char *what, const char *where, const char *kind, unsigned long flags,
              const char *options)
{
	make_dirs(where);
	if (mount(what, where, kind, flags, options) < 0)
		fail("cannot mount %s on %s: %s", kind ? kind : what, where, strerror(errno));
}

/* For what is convenient but not needed. */
static void try_mount(const char *kind, const char *where, const char *options)
{
	make_dirs(where);
	mount(kind, where, kind, 0, options);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "lab: writing %s: %s\n", path, strerror(errno));
	close(fd);
}

static void load_module(const char *path, const char *options)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("no %s in the initramfs", path);
	if (syscall(SYS_finit_module, fd, options, 0) < 0 && errno != EEXIST)
		fail("cannot load %s: %s", path, strerror(errno));
	close(fd);
}

void load_modules(const char *list)
{
	char line[512];
	FILE *file = fopen(list, "re");

	if (file == NULL)
		fail("no %s in the initramfs", list);
	while (fgets(line, sizeof(line), file) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		load_module(line, "");
	}
	fclose(file);
}

static void mount_9p(const char *tag, const char *where, unsigned long flags)
{
	mount_at(tag, where, "9p", flags, "trans=virtio,version=9p2000.L,msize=512000,cache=loose");
}

/* Puts the host's directory `path` at `where`, with writes going to memory. */
static void mount_overlay(const char *path, const char *where)
{
	static int count;
	char options[8192], upper[64], work[64];

	snprintf(upper, sizeof(upper), "/memory/upper%d", count);
	snprintf(work, sizeof(work), "/memory/work%d", count);
	count++;
	make_dirs(upper);
	make_dirs(work);
	snprintf(options, sizeof(options), "lowerdir=" BASE "%s,upperdir=%s,workdir=%s,volatile",
	         path, upper, work);
	mount_at("overlay", where, "overlay", 0, options);
}

static void mount_host(void)
{
	mount_9p("base", BASE, MS_RDONLY);
	mount_at("tmpfs", "/memory", "tmpfs", 0, "mode=755,size=75%");
	mount_overlay("/", ROOT);
}

static void mount_system(bool packed)
{
	mount_at("proc", ROOT "/proc", "proc", 0, NULL);
	mount_at("sysfs", ROOT "/sys", "sysfs", 0, NULL);
	mount_at("/dev", ROOT "/dev", NULL, MS_MOVE, NULL);
	mount_at("devpts", ROOT "/dev/pts", "devpts", 0, "ptmxmode=666");
	mount_at("tmpfs", ROOT "/dev/shm", "tmpfs", 0, "mode=1777");
	if (!packed) { /* else they are in memory as they are, and what was packed may lie there */
		mount_at("tmpfs", ROOT "/tmp", "tmpfs", 0, "mode=1777");
		mount_at("tmpfs", ROOT "/run", "tmpfs", 0, "mode=755");
	}
	try_mount("hugetlbfs", ROOT "/dev/hugepages", NULL);
	try_mount("cgroup2", ROOT "/sys/fs/cgroup", "nsdelegate");
	try_mount("debugfs", ROOT "/sys/kernel/debug", NULL);
	try_mount("tracefs", ROOT "/sys/kernel/tracing", NULL);
	symlink("/proc/self/fd", ROOT "/dev/fd");
	symlink("/proc/self/fd/0", ROOT "/dev/stdin");
	symlink("/proc/self/fd/1", ROOT "/dev/stdout");
	symlink("/proc/self/fd/2", ROOT "/dev/stderr");
}

static void enter_root(void)
{
	if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		fail("cannot enter the new root: %s", strerror(errno));
}

static void start_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
}

/*
 * Two machines that never run, kept for ever. The first virtual machine of a kernel, the first vCPU
 * without an APIC or with one that is off, and the last, each switch a jump label: code that the
 * other CPU is in, the scheduler's among it, is patched by way of an INT3. TCG now and then goes on
 * with an INT3 that is gone, and the CPU takes it again and again. With these two nothing is
 * switched any more.
 */
static void keep_machine(bool irqchip)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0)
		return;
	if (irqchip)
		ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	ioctl(vm, KVM_CREATE_VCPU, 0);
	/* The descriptors of the machine and its vCPU stay open. */
	close(kvm);
}

static void tune(void)
{
	const struct rlimit files = {.rlim_cur = 1024, .rlim_max = 1 << 20};

	setrlimit(RLIMIT_NOFILE, &files);
	sethostname("lab", 3);
	start_loopback();
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +io +pids");
	/* What a command writes to a share is to be seen outside while it runs. */
	write_file("/proc/sys/vm/dirty_writeback_centisecs", "50");
	write_file("/proc/sys/vm/dirty_expire_centisecs", "100");
}

void set_up(char *at, const char *end)
{
	struct timespec now = {.tv_sec = atoll(next_string(&at, end))};
	const bool packed = access(PACKED, F_OK) == 0;

	now.tv_nsec = atol(next_string(&at, end));
	clock_settime(CLOCK_REALTIME, &now);
	if (packed)
		mount_at(ROOT, ROOT, NULL, MS_BIND, NULL);
	else
		mount_host();
	mount_system(packed);
	while (at < end) {
		const char *verb = next_string(&at, end);
		const char *first = next_string(&at, end);
		char where[4096];

		if (strcmp(verb, "share") == 0) {
			snprintf(where, sizeof(where), ROOT "%s", next_string(&at, end));
			mount_9p(first, where, 0);
		} else if (strcmp(verb, "overlay") == 0) {
			snprintf(where, sizeof(where), ROOT "%s", first);
			mount_overlay(first, where);
		} else if (strcmp(verb, "modules") == 0) {
			char from[4096];

			snprintf(from, sizeof(from), BASE "%s", first);
			snprintf(where, sizeof(where), ROOT "/lib/modules/%s",
			         next_string(&at, end));
			mount_at(from, where, NULL, MS_BIND, NULL);
		} else if (strcmp(verb, "load") == 0) {
			load_module(first, next_string(&at, end));
		} else {
			fail("unknown setup verb '%s'", verb);
		}
	}
	enter_root();
	keep_machine(true);
	keep_machine(false);
	tune();
}
