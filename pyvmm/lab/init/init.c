/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of the lab's outer machine. It loads the modules packed beside it, puts the
 * host's file tree under a throw-away overlay, or takes the copy that was packed, and runs the
 * commands that come in over one port, virtio or serial, whose protocol is described in
 * protocol.py. It trusts the host that started it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "job.h"
#include "port.h"
#include "setup.h"

/* Stdin that the host sent before it knew that the command had ended is dropped. */
static void obey(int signals)
{
	for (;;) {
		uint32_t length;
		char type;
		char *payload;

		read_header(&type, &length);
		payload = read_payload(length);
		if (type == F_RUN) {
			run_command(payload, length, signals);
		} else if (type == F_END) {
			sync();
			send_frame(F_BYE, "", 0);
			power_off();
		} else if (type != F_STDIN && type != F_WINSIZE) {
			fail("unexpected frame '%c'", type);
		}
		free(payload);
	}
}

int main(void)
{
	uint32_t length;
	char type;
	char *payload;
	sigset_t child;

	mount_at("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	load_modules("/modules/order");
	port_open();
	send_frame(F_HELLO, "", 0);
	read_header(&type, &length);
	payload = read_payload(length);
	if (type != F_SETUP)
		fail("frame '%c' where a setup was expected", type);
	set_up(payload, payload + length);
	free(payload);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	send_frame(F_READY, "", 0);
	obey(signalfd(-1, &child, SFD_CLOEXEC));
	return 0;
}
