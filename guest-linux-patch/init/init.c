/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a pyvmm guest: sets the stage, runs one command, hands its exit status to
 * the VMM and ends the machine. It also runs under other VMMs, which then just see the machine end.
 *
 * Files:   /pyvmm/command  arguments, each closed by a zero byte; without it, a shell
 *          /pyvmm/env      NAME=VALUE, each closed by a zero byte
 *          /pyvmm/modules  kernel modules to load first, one path a line; one whose device is not
 *                          there is left out
 *
 * Options on the kernel command line:
 *
 * - pyvmm.console=hvc0: device for the command's input and output; else the kernel's console
 * - pyvmm.raw=1: bytes pass unchanged: no echo, no line editing, no signals, no CR before LF
 * - pyvmm.stdin=framed: the console's input is framed (csrc/host/framing.h), the command gets it by
 *   a pipe
 * - pyvmm.size=COLSxROWS, pyvmm.term=NAME: window size and TERM
 * - pyvmm.swap=SERIAL: swap to the disk with that serial number
 * - pyvmm.command=N: a command of N bytes is to be run; without it a missing one means a shell
 * - pyvmm.end=poweroff or reboot
 * - pyvmm.mark=1: write 0x49 to port 0xf5 at the start
 *
 * Port 0xf4 takes the exit status: the command's, 128 + signal, 127 not found, 126 not executable,
 * 125 init failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "console.h"
#include "end.h"
#include "file.h"
#include "option.h"
#include "port.h"
#include "swap.h"

static void mount_one(const char *type, const char *target, unsigned long flags, const char *data)
{
	if (mkdir(target, 0755) && errno != EEXIST)
		fail("cannot make %s: %s", target, strerror(errno));
	if (mount(type, target, type, flags, data) && errno != EBUSY)
		fail("cannot mount %s on %s: %s", type, target, strerror(errno));
}

static void mount_all(void)
{
	mount_one("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_one("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_one("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666");
	mount_one("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_one("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_one("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

/* The kernel gives lo its address when it comes up. A kernel without network is no fault. */
static void loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;

	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request))
			say("cannot bring up lo: %s", strerror(errno));
	}
	close(fd);
}

static void load_modules(void)
{
	size_t length;
	char *list = read_file("/pyvmm/modules", &length);
	if (!list) {
		if (errno != ENOENT)
			fail("cannot read /pyvmm/modules: %s", strerror(errno));
		return;
	}
	for (char *rest = list, *path; (path = strsep(&rest, "\n"));) {
		if (!*path)
			continue;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			fail("cannot open kernel module %s: %s", path, strerror(errno));
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST && errno != ENODEV)
			fail("cannot load kernel module %s: %s", path, strerror(errno));
		close(fd);
	}
	free(list);
}

static int exit_status(int wait_status)
{
	return WIFSIGNALED(wait_status) ? STATUS_SIGNAL + WTERMSIG(wait_status)
	                                : WEXITSTATUS(wait_status);
}

/* Reaps everything until the command is gone. The signals are what poweroff, halt and reboot send
 * to process 1. */
static int wait_for(pid_t command, const sigset_t *signals)
{
	for (;;) {
		int wait_status, signal = sigwaitinfo(signals, NULL);

		if (signal == SIGTERM || signal == SIGUSR1 || signal == SIGUSR2)
			return 0;
		for (pid_t pid; (pid = waitpid(-1, &wait_status, WNOHANG)) > 0;)
			if (pid == command)
				return exit_status(wait_status);
	}
}

int main(void)
{
	sigset_t signals, before;

	mount_one("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	read_cmdline();
	if (option_is("pyvmm.mark", "1"))
		out_byte(MARK_PORT, MARK_BYTE);
	mount_all();
	reboot(RB_DISABLE_CAD);
	if (sethostname("pyvmm", strlen("pyvmm")))
		say("cannot set the host name: %s", strerror(errno));
	loopback_up();
	load_modules();
	swap_on();
	open_console();
	set_up_terminal();
	set_environment();

	/* SIGTTOU blocked: this process sets and drains a terminal whose foreground is the
	 * command's. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGUSR2);
	sigaddset(&signals, SIGTTOU);
	sigprocmask(SIG_BLOCK, &signals, &before);
	sigdelset(&signals, SIGTTOU);

	char **argv = read_command();
	int input = open_input();
	pid_t command = fork();
	if (command < 0)
		fail("cannot fork: %s", strerror(errno));
	if (command == 0)
		run_child(argv, input, &before);
	if (input != console)
		close(input);
	finish(wait_for(command, &signals));
}
