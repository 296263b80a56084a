/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/platform.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>

#include "host/iothread.h"
#include "machine/vcpu.h"

enum {
	I8042_PULSE_RESET = 0xfe,
	RESET_CPU = 0x04, /* bit 2 of 0xcf9: the 0->1 edge resets */
	PVPANIC_PANICKED = 0x01,
	PVPANIC_CRASH_LOADED = 0x02,
	/* ACPI 6.5, tables 4.11 to 4.13 */
	PM1_PWRBTN = 1 << 8,
	PM1_CNT_SCI_EN = 1 << 0,
	PM1_CNT_SLP_TYP_SHIFT = 10,
	PM1_CNT_SLP_TYP_MASK = 7,
	PM1_CNT_SLP_EN = 1 << 13,
};

struct platform *platform_create(int vm_fd)
{
	struct platform *platform = calloc(1, sizeof(*platform));

	if (!platform)
		return NULL;
	platform->vm_fd = vm_fd;
	platform->status = -1;
	platform->ready_fd = -1;
	/* No SMI command port: the machine is in ACPI mode from the start. */
	platform->pm_control = PM1_CNT_SCI_EN;
	return platform;
}

void platform_destroy(struct platform *platform)
{
	free(platform);
}

static int i8042_data(void *opaque, struct bus_access *access)
{
	(void)opaque;
	access->value = 0;
	return BUS_DONE;
}

/* There is no keyboard, only the reset line. A status of 0 lets the guest's wait for an empty
 * buffer end at once. */
static int i8042_command(void *opaque, struct bus_access *access)
{
	(void)opaque;
	if (access->is_write)
		return (uint8_t)access->value == I8042_PULSE_RESET ? VCPU_REBOOT : BUS_DONE;
	access->value = 0;
	return BUS_DONE;
}

static int reset_control(void *opaque, struct bus_access *access)
{
	struct platform *platform = opaque;

	if (!access->is_write) {
		access->value = platform->reset_control;
		return BUS_DONE;
	}
	platform->reset_control = (uint8_t)access->value;
	return platform->reset_control & RESET_CPU ? VCPU_REBOOT : BUS_DONE;
}

static int exit_status(void *opaque, struct bus_access *access)
{
	struct platform *platform = opaque;

	if (!access->is_write) {
		access->value = 0;
		return BUS_DONE;
	}
	__atomic_store_n(&platform->status, (uint8_t)access->value, __ATOMIC_RELEASE);
	return platform->debug_exit ? VCPU_POWEROFF : BUS_DONE;
}

static int mark(void *opaque, struct bus_access *access)
{
	struct platform *platform = opaque;
	struct timespec now;

	if (!access->is_write) {
		access->value = 0;
		return BUS_DONE;
	}
	if ((uint8_t)access->value == PLATFORM_MARK_READY && platform->ready_fd >= 0)
		eventfd_signal(platform->ready_fd);
	if (platform->mark_ns)
		return BUS_DONE;
	clock_gettime(CLOCK_MONOTONIC, &now);
	platform->mark = (uint8_t)access->value;
	platform->mark_ns = (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
	return BUS_DONE;
}

static int pvpanic(void *opaque, struct bus_access *access)
{
	(void)opaque;
	if (!access->is_write) {
		access->value = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
		return BUS_DONE;
	}
	return access->value & PVPANIC_PANICKED ? VCPU_PANIC : BUS_DONE;
}

/* The SCI is level-triggered: up while an enabled event is pending. */
static void update_sci(struct platform *platform)
{
	struct kvm_irq_level line = {
	        .irq = PLATFORM_SCI,
	        .level = (__atomic_load_n(&platform->pm_status, __ATOMIC_SEQ_CST) &
		          __atomic_load_n(&platform->pm_enable, __ATOMIC_SEQ_CST)) != 0,
	};

	/* Without an interrupt controller in the kernel there is no line, and nobody to miss it. */
	(void)!ioctl(platform->vm_fd, KVM_IRQ_LINE, &line);
}

/* The low half is the status, cleared by writing ones; the high half enables what raises the SCI.
 * A write may be of any part of the two; a port access has at most four bytes. */
static void write_pm_event(struct platform *platform, uint32_t mask, uint32_t value)
{
	uint16_t enable = __atomic_load_n(&platform->pm_enable, __ATOMIC_SEQ_CST);

	enable = (uint16_t)((enable & ~(mask >> 16)) | value >> 16);
	__atomic_and_fetch(&platform->pm_status, (uint16_t)~value, __ATOMIC_SEQ_CST);
	if (mask >> 16)
		__atomic_store_n(&platform->pm_enable, enable, __ATOMIC_SEQ_CST);
	update_sci(platform);
}

static int pm_event(void *opaque, struct bus_access *access)
{
	struct platform *platform = opaque;
	uint32_t both = platform->pm_status | (uint32_t)platform->pm_enable << 16;
	uint32_t mask;

	if (!access->is_write) {
		access->value = both >> (access->offset * 8);
		return BUS_DONE;
	}
	mask = (uint32_t)((1ULL << access->length * 8) - 1) << access->offset * 8;
	write_pm_event(platform, mask, (uint32_t)(access->value << access->offset * 8) & mask);
	return BUS_DONE;
}

static int pm_control(void *opaque, struct bus_access *access)
{
	struct platform *platform = opaque;
	uint16_t value = (uint16_t)access->value;

	if (!access->is_write) {
		access->value = platform->pm_control >> (access->offset * 8);
		return BUS_DONE;
	}
	if (access->offset || access->length < 2)
		return BUS_DONE;
	platform->pm_control = (value & ~PM1_CNT_SLP_EN) | PM1_CNT_SCI_EN;
	if (!(value & PM1_CNT_SLP_EN))
		return BUS_DONE;
	/* Only S5 is announced; any other type is a guest that did not read \_S5. */
	if (((value >> PM1_CNT_SLP_TYP_SHIFT) & PM1_CNT_SLP_TYP_MASK) != PLATFORM_SLEEP_S5)
		return BUS_DONE;
	return VCPU_POWEROFF;
}

int platform_attach(struct platform *platform, struct bus *pio)
{
	static const struct {
		uint16_t port, length;
		bus_handler *handler;
	} ports[] = {
	        {PLATFORM_I8042_DATA, 1, i8042_data}, {PLATFORM_I8042_COMMAND, 1, i8042_command},
	        {PLATFORM_STATUS, 1, exit_status},    {PLATFORM_MARK, 1, mark},
	        {PLATFORM_PVPANIC, 1, pvpanic},       {PLATFORM_PM_EVENT, 4, pm_event},
	        {PLATFORM_PM_CONTROL, 2, pm_control}, {PLATFORM_RESET, 1, reset_control},
	};

	for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		int ret = bus_add(pio, ports[i].port, ports[i].length, ports[i].handler, platform);

		if (ret)
			return ret;
	}
	return 0;
}

int platform_power_button(struct platform *platform)
{
	if (!(__atomic_load_n(&platform->pm_enable, __ATOMIC_SEQ_CST) & PM1_PWRBTN))
		return -EAGAIN;
	__atomic_or_fetch(&platform->pm_status, PM1_PWRBTN, __ATOMIC_SEQ_CST);
	update_sci(platform);
	return 0;
}
