/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "clock.h"
#include "console.h"
#include "end.h"
#include "option.h"

#define CONSOLE_WAIT_MS 10000
#define DRAIN_WAIT_S    10

int console = -1;

/*
 * /dev/console itself cannot be a controlling terminal; the device behind it can. The kernel lists
 * its consoles with that one last.
 */
static void console_path(char *path, size_t size)
{
	char name[256];

	if (!option("pyvmm.console", name, sizeof(name))) {
		char active[256] = "";
		int fd = open("/sys/class/tty/console/active", O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			(void)!read(fd, active, sizeof(active) - 1);
			close(fd);
		}
		active[strcspn(active, "\n")] = '\0';
		const char *last = strrchr(active, ' ');
		snprintf(name, sizeof(name), "%s", last ? last + 1 : *active ? active : "console");
	}
	snprintf(path, size, "%s%s", *name == '/' ? "" : "/dev/", name);
}

/* A virtio console answers some time after its driver is there: until then the node is missing or
 * refuses. */
void open_console(void)
{
	char path[sizeof("/dev/") + 256];

	console_path(path, sizeof(path));
	for (int waited = 0;; waited += POLL_MS) {
		console = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (console >= 0)
			break;
		if (!strcmp(path, "/dev/console")) {
			/* A machine without any console is allowed: the command is just not heard.
			 */
			console = open("/dev/null", O_RDWR | O_CLOEXEC);
			break;
		}
		if (waited >= CONSOLE_WAIT_MS)
			fail("console %s did not appear within %d s: %s", path,
			     CONSOLE_WAIT_MS / 1000, strerror(errno));
		sleep_ms(POLL_MS);
	}
	if (console < 0)
		fail("cannot open %s: %s", path, strerror(errno));
}

void set_up_terminal(void)
{
	struct termios modes;
	char size[32];
	unsigned short columns, rows;

	if (!isatty(console))
		return;
	if (option_is("pyvmm.raw", "1") && tcgetattr(console, &modes) == 0) {
		cfmakeraw(&modes);
		modes.c_cflag |= CREAD | CLOCAL;
		if (tcsetattr(console, TCSANOW, &modes))
			fail("cannot set the console raw: %s", strerror(errno));
	}
	if (option("pyvmm.size", size, sizeof(size)) &&
	    sscanf(size, "%hux%hu", &columns, &rows) == 2) {
		struct winsize window = {.ws_col = columns, .ws_row = rows};
		ioctl(console, TIOCSWINSZ, &window);
	}
	/*
	 * The session belongs to this process, not to the command: when a session's leader exits,
	 * the kernel hangs the terminal up and drops the output that is still on its way.
	 */
	if (setsid() < 0 && errno != EPERM)
		fail("cannot start a session: %s", strerror(errno));
	if (ioctl(console, TIOCSCTTY, 1))
		say("no job control, the console cannot be the controlling terminal: %s",
		    strerror(errno));
}

static void wake(int signal)
{
	(void)signal;
}

void drain_console(void)
{
	struct sigaction alarmed = {.sa_handler = wake};
	sigset_t only;

	if (console < 0)
		return;
	sigaction(SIGALRM, &alarmed, NULL);
	sigemptyset(&only);
	sigaddset(&only, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	alarm(DRAIN_WAIT_S);
	tcdrain(console);
	alarm(0);
}
