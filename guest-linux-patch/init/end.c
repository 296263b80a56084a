/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "console.h"
#include "end.h"
#include "option.h"
#include "port.h"

#define STRAGGLER_WAIT_MS 2000

/* What the command left running would keep file systems busy. */
static void end_stragglers(void)
{
	kill(-1, SIGKILL);
	for (int waited = 0; waited < STRAGGLER_WAIT_MS; waited += POLL_MS) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		if (pid < 0)
			return;
		if (pid == 0)
			sleep_ms(POLL_MS);
	}
}

/* Disks that the command mounted are left clean. The last mounted goes first; a few rounds, for
 * nested ones. */
static void unmount_disks(void)
{
	for (int round = 0; round < 16; round++) {
		char line[1024], target[sizeof(line)] = "";
		FILE *mounts = fopen("/proc/self/mounts", "re");
		if (!mounts)
			return;
		while (fgets(line, sizeof(line), mounts)) {
			char source[sizeof(line)], place[sizeof(line)];
			if (sscanf(line, "%1023s %1023s", source, place) == 2 &&
			    !strncmp(source, "/dev/", 5))
				strcpy(target, place);
		}
		fclose(mounts);
		if (!*target || umount2(target, 0))
			return;
	}
}

void finish(int status)
{
	drain_console();
	end_stragglers();
	unmount_disks();
	sync();
	out_byte(STATUS_PORT, (unsigned char)status);
	/*
	 * Without ACPI the kernel turns a power-off into a halt, which never comes back. A restart
	 * is an end too: VMMs are told to exit on one.
	 */
	if (!option_is("pyvmm.end", "reboot") && !access("/sys/firmware/acpi/tables", F_OK))
		reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
