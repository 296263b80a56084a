/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands for KVM under the vCPU loop: each KVM_RUN gives the next exit of a list, so that exits
 * which no guest can bring about at will are tested too.
 */
#include "fake_kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>

static struct kvm_run *shared;
static const struct fake_exit *exits;
static unsigned int left;

void fake_kvm(void *run, const struct fake_exit *list, unsigned int count)
{
	shared = run;
	exits = list;
	left = count;
}

static void fill(const struct fake_exit *next)
{
	shared->exit_reason = next->reason;
	switch (next->reason) {
	case KVM_EXIT_SYSTEM_EVENT:
		shared->system_event.type = next->detail;
		break;
	case KVM_EXIT_MMIO:
		shared->mmio.phys_addr = 0xd0000000;
		shared->mmio.len = next->detail;
		shared->mmio.is_write = 0;
		break;
	default:
		break;
	}
}

int fake_ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	if (request != KVM_RUN || !left) {
		errno = ENOTTY;
		return -1;
	}
	left--;
	if (exits->error) {
		errno = exits++->error;
		return -1;
	}
	fill(exits++);
	return 0;
}
