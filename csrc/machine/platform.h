/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few chipset registers by which a guest ends the machine or says how it fared:
 * keyboard-controller and 0xcf9 reset, ACPI fixed hardware (power-off, power button), pvpanic, exit
 * status.
 */
#ifndef PYVMM_MACHINE_PLATFORM_H
#define PYVMM_MACHINE_PLATFORM_H

#include <stdint.h>

#include "machine/bus.h"

/* cffi: begin */
enum {
	PLATFORM_I8042_DATA = 0x60,
	PLATFORM_I8042_COMMAND = 0x64,
	PLATFORM_RESET = 0xcf9,
	PLATFORM_STATUS = 0xf4,     /* a byte: the exit status the guest reports */
	PLATFORM_MARK = 0xf5,       /* a byte: a point in time the guest marks */
	PLATFORM_MARK_READY = 0x52, /* the mark that says: the guest takes input now */
	PLATFORM_PVPANIC = 0x505,
	PLATFORM_PM_EVENT = 0x600,   /* PM1a_STS and PM1a_EN, 16 bits each */
	PLATFORM_PM_CONTROL = 0x604, /* PM1a_CNT, 16 bits */
	PLATFORM_SCI = 9,
	PLATFORM_SLEEP_S5 = 5, /* SLP_TYPa of \_S5 */
};

struct platform {
	int vm_fd;
	int ready_fd;     /* eventfd that the ready mark signals, or -1 */
	int status;       /* -1 until the guest reported one */
	int debug_exit;   /* the report of a status ends the run; set before it starts */
	uint64_t mark_ns; /* CLOCK_MONOTONIC of the guest's first mark, 0 for none */
	uint32_t mark;
	uint16_t pm_status, pm_enable, pm_control;
	uint8_t reset_control;
};

struct platform *platform_create(int vm_fd);
void platform_destroy(struct platform *platform);

/* Claims the ports: 0 or the error of bus_add(). */
int platform_attach(struct platform *platform, struct bus *pio);

/* Presses the ACPI power button: 0, or -EAGAIN while the guest has not enabled it. */
int platform_power_button(struct platform *platform);
/* cffi: end */

#endif
