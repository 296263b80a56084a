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
 * - pyvmm.stdin=framed: the console's input is framed (csrc/framing.h), the command gets it by a
 * pipe
 * - pyvmm.size=COLSxROWS, pyvmm.term=NAME: window size and TERM
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
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define STATUS_PORT 0xf4
#define MARK_PORT   0xf5
#define MARK_BYTE   0x49
#define READY_BYTE  0x52

#define FRAME_DLE 0x10
#define FRAME_EOT 0x04

#define STATUS_INIT_FAILED    125
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND      127
#define STATUS_SIGNAL         128

#define CONSOLE_WAIT_MS   10000
#define DRAIN_WAIT_S      10
#define STRAGGLER_WAIT_MS 2000
#define POLL_MS           5

static char cmdline[4096];
static int console = -1;

static void finish(int status) __attribute__((noreturn));

/* To the kernel's console; where there is none, to its log. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
	char text[512] = "pyvmm init: ";
	size_t used = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + used, sizeof(text) - used - 1, format, args);
	va_end(args);
	strcat(text, "\n");
	if (write(STDERR_FILENO, text, strlen(text)) >= 0)
		return;

	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (log >= 0) {
		(void)!write(log, text, strlen(text));
		close(log);
	}
}

#define fail(...)                                                                                  \
	do {                                                                                       \
		say(__VA_ARGS__);                                                                  \
		finish(STATUS_INIT_FAILED);                                                        \
	} while (0)

static void sleep_ms(long ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

/* A whole file in memory, with a zero byte after its end. NULL with errno set if that fails. */
static char *read_file(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;

	struct stat status;
	char *data = fstat(fd, &status) ? NULL : malloc((size_t)status.st_size + 1);
	size_t used = 0;
	while (data && used < (size_t)status.st_size) {
		ssize_t got = read(fd, data + used, (size_t)status.st_size - used);
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	close(fd);
	if (data) {
		data[used] = '\0';
		*length = used;
	}
	return data;
}

/* --- the kernel command line ---------------------------------------------------------------- */

static void read_cmdline(void)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("cannot open /proc/cmdline: %s", strerror(errno));

	ssize_t got = read(fd, cmdline, sizeof(cmdline) - 1);
	close(fd);
	if (got < 0)
		fail("cannot read /proc/cmdline: %s", strerror(errno));
	cmdline[got] = '\0';
}

/* The value of name=value, copied; the last one wins. False if the option is not there. */
static bool option(const char *name, char *value, size_t size)
{
	const size_t length = strlen(name);
	bool found = false;

	for (const char *word = cmdline; *word;) {
		size_t end = strcspn(word, " \n");
		if (end > length && !strncmp(word, name, length) && word[length] == '=') {
			snprintf(value, size, "%.*s", (int)(end - length - 1), word + length + 1);
			found = true;
		}
		word += end;
		word += strspn(word, " \n");
	}
	return found;
}

static bool option_is(const char *name, const char *wanted)
{
	char value[64];

	return option(name, value, sizeof(value)) && !strcmp(value, wanted);
}

/* --- the end --------------------------------------------------------------------------------- */

static void out_byte(unsigned short port, unsigned char value)
{
	if (ioperm(port, 1, 1) == 0) {
		outb(value, port);
		return;
	}
	int fd = open("/dev/port", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!pwrite(fd, &value, 1, port);
	close(fd);
}

static void wake(int signal)
{
	(void)signal;
}

/* All output must have left before the machine ends, but a VMM that takes none must not keep the
 * guest alive. */
static void drain_console(void)
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

static void finish(int status)
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

/* --- the stage -------------------------------------------------------------------------------- */

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

/* --- the command's terminal --------------------------------------------------------------------
 */

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
static void open_console(void)
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

static void set_up_terminal(void)
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

/* --- the command ---------------------------------------------------------------------------------
 */

/* Splits at zero bytes, in place. */
static char **split_zero(char *data, size_t length)
{
	size_t count = 0;

	for (size_t at = 0; at < length; at += strlen(data + at) + 1)
		count++;
	char **list = calloc(count + 1, sizeof(*list));
	if (!list)
		fail("out of memory");
	count = 0;
	for (size_t at = 0; at < length; at += strlen(data + at) + 1)
		list[count++] = data + at;
	return list;
}

static void set_environment(void)
{
	char term[64] = "linux";
	size_t length;

	option("pyvmm.term", term, sizeof(term));
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("SHELL", "/bin/sh", 1);
	setenv("TERM", term, 1);

	char *data = read_file("/pyvmm/env", &length);
	if (!data) {
		if (errno != ENOENT)
			fail("cannot read /pyvmm/env: %s", strerror(errno));
		return;
	}
	for (char **entry = split_zero(data, length); *entry; entry++)
		if (putenv(*entry))
			fail("out of memory");
}

static char **read_command(void)
{
	static char *shell[] = {"-sh", NULL};
	size_t length;
	char *data = read_file("/pyvmm/command", &length);

	if (!data && errno != ENOENT)
		fail("cannot read /pyvmm/command: %s", strerror(errno));
	if (!data || !length)
		return shell;
	return split_zero(data, length);
}

/* Writes all of it; false when nobody reads any more. */
static bool write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t done = write(fd, data, length);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		data += done;
		length -= (size_t)done;
	}
	return true;
}

/* Takes the frame off what the console brings: DLE DLE is one DLE, DLE EOT the end. */
static void relay(int to) __attribute__((noreturn));
static void relay(int to)
{
	char in[4096], out[4096];
	bool escaped = false;

	/* Without this terminal's session no job control stops us reading it. */
	setsid();
	for (;;) {
		ssize_t got = read(console, in, sizeof(in));
		size_t length = 0;

		if (got < 0 && errno == EINTR)
			continue;
		for (ssize_t i = 0; i < got; i++) {
			if (!escaped && in[i] == FRAME_DLE) {
				escaped = true;
				continue;
			}
			if (escaped && in[i] == FRAME_EOT) {
				write_all(to, out, length);
				_exit(0);
			}
			escaped = false;
			out[length++] = in[i];
		}
		if (got <= 0 || !write_all(to, out, length))
			_exit(0);
	}
}

/* Where the command's standard input comes from: the console, or what a relay makes of it. */
static int open_input(void)
{
	int ends[2];
	pid_t pid;

	if (!option_is("pyvmm.stdin", "framed"))
		return console;
	out_byte(MARK_PORT, READY_BYTE);
	if (pipe2(ends, O_CLOEXEC))
		fail("cannot make a pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("cannot fork: %s", strerror(errno));
	if (!pid) {
		close(ends[0]);
		relay(ends[1]);
	}
	close(ends[1]);
	return ends[0];
}

/* In the child. A session of a shell user: its own process group in the foreground. */
static void take_terminal(int input)
{
	setpgid(0, 0);
	tcsetpgrp(console, getpid());
	if (dup2(input, STDIN_FILENO) < 0 || dup2(console, STDOUT_FILENO) < 0 ||
	    dup2(console, STDERR_FILENO) < 0)
		_exit(STATUS_INIT_FAILED);
}

static void run_child(char **argv, int input, const sigset_t *mask) __attribute__((noreturn));
static void run_child(char **argv, int input, const sigset_t *mask)
{
	take_terminal(input);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(!strcmp(argv[0], "-sh") ? "/bin/sh" : argv[0], argv);

	const int error = errno;
	if (error == ENOENT && strchr(argv[0], '/') && !access(argv[0], F_OK)) {
		say("%s: its interpreter or dynamic loader is not in the guest", argv[0]);
		_exit(STATUS_NOT_FOUND);
	}
	if (error == ENOENT || error == ENOTDIR) {
		say("%s: not found in the guest", argv[0]);
		_exit(STATUS_NOT_FOUND);
	}
	say("%s: cannot be executed: %s", argv[0], strerror(error));
	_exit(STATUS_NOT_EXECUTABLE);
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
