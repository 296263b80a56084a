/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of the lab's outer machine. It loads the modules packed beside it, puts the
 * host's file tree under a throw-away overlay, and runs the commands that come in over one virtio
 * console port, whose protocol is described in protocol.py. It trusts the host that started it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <net/if.h>

#define PORT        "/dev/vport0p1"
#define CHUNK       16384
#define STDIN_ROOM  65536 /* protocol.STDIN_WINDOW */
#define PAYLOAD_MAX (8u << 20)
#define BASE        "/base" /* the host's tree, read only */
#define ROOT        "/root" /* what becomes / */

enum frame {
	/* from the host */
	F_SETUP = 'S',
	F_RUN = 'R',
	F_STDIN = 'I',
	F_WINSIZE = 'W',
	F_END = 'Q',
	/* to the host */
	F_HELLO = 'H',
	F_READY = 'Y',
	F_OUT = 'O',
	F_ERR = 'E',
	F_CREDIT = 'C',
	F_EXIT = 'X',
	F_FAIL = 'F',
	F_BYE = 'B',
};

static int port = -1;

/* -- the port ------------------------------------------------------------------------------- */

static void power_off(void)
{
	sync();
	reboot(RB_AUTOBOOT); /* QEMU runs with -no-reboot */
	for (;;)
		pause();
}

static void wait_for(int fd, short events)
{
	struct pollfd one = {.fd = fd, .events = events};

	while (poll(&one, 1, -1) < 0 && errno == EINTR)
		;
	if (one.revents & POLLHUP)
		power_off(); /* the host side is gone: nobody is left to serve */
}

static void port_write(const void *data, size_t length)
{
	const char *at = data;

	while (length > 0) {
		ssize_t n = write(port, at, length);

		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			wait_for(port, POLLOUT);
		} else if (n == 0 || errno != EINTR) {
			power_off();
		}
	}
}

static void port_read(void *data, size_t length)
{
	char *at = data;

	while (length > 0) {
		ssize_t n = read(port, at, length);

		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			wait_for(port, POLLIN);
		} else if (n == 0 || errno != EINTR) {
			power_off();
		}
	}
}

/* One write for header and payload: each costs an exit of the emulated device. */
static void send_frame(enum frame type, const void *payload, uint32_t length)
{
	char packet[5 + CHUNK];

	packet[0] = (char)type;
	memcpy(packet + 1, &length, sizeof(length));
	memcpy(packet + 5, payload, length);
	port_write(packet, 5 + length);
}

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *format, ...)
{
	char text[1024];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (length < 0)
		length = 0;
	if ((size_t)length >= sizeof(text))
		length = sizeof(text) - 1;
	fprintf(stderr, "lab: %s\n", text);
	if (port >= 0)
		send_frame(F_FAIL, text, (uint32_t)length);
	power_off();
	__builtin_unreachable();
}

static void read_header(char *type, uint32_t *length)
{
	char header[5];

	port_read(header, sizeof(header));
	*type = header[0];
	memcpy(length, header + 1, sizeof(*length));
	if (*length > PAYLOAD_MAX)
		fail("a frame of %u bytes from the host", *length);
}

static char *read_payload(uint32_t length)
{
	char *payload = malloc((size_t)length + 1);

	if (payload == NULL)
		fail("no memory for a frame of %u bytes", length);
	port_read(payload, length);
	payload[length] = '\0';
	return payload;
}

/* The next of the NUL-terminated strings that make up a payload. */
static char *next_string(char **at, const char *end)
{
	char *text = *at;

	if (text >= end)
		fail("a frame from the host ends too early");
	*at = text + strlen(text) + 1;
	return text;
}

static int next_number(char **at, const char *end)
{
	return atoi(next_string(at, end));
}

/* -- bringing the machine up ---------------------------------------------------------------- */

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

static void mount_at(const char *what, const char *where, const char *kind, unsigned long flags,
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

/* A list has the path of one module a line. */
static void load_modules(const char *list)
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

static void open_port(void)
{
	const struct timespec pause_time = {.tv_nsec = 2000000};

	/* The port appears when the device has answered: soon, but not at once. */
	for (int tries = 0; tries < 5000; tries++) {
		port = open(PORT, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (port >= 0)
			return;
		nanosleep(&pause_time, NULL);
	}
	fail("no %s: %s", PORT, strerror(errno));
}

/* Until the device says that the host is there, reading means end of file. */
static void await_host(void)
{
	const struct timespec pause_time = {.tv_nsec = 1000000};
	struct pollfd one = {.fd = port, .events = POLLOUT};

	for (int tries = 0; tries < 10000; tries++) {
		if (poll(&one, 1, 0) >= 0 && !(one.revents & POLLHUP))
			return;
		nanosleep(&pause_time, NULL);
	}
	power_off();
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

static void mount_system(void)
{
	mount_at("proc", ROOT "/proc", "proc", 0, NULL);
	mount_at("sysfs", ROOT "/sys", "sysfs", 0, NULL);
	mount_at("/dev", ROOT "/dev", NULL, MS_MOVE, NULL);
	mount_at("devpts", ROOT "/dev/pts", "devpts", 0, "ptmxmode=666");
	mount_at("tmpfs", ROOT "/dev/shm", "tmpfs", 0, "mode=1777");
	mount_at("tmpfs", ROOT "/tmp", "tmpfs", 0, "mode=1777");
	mount_at("tmpfs", ROOT "/run", "tmpfs", 0, "mode=755");
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

/*
 * Setup payload, strings: seconds, nanoseconds; then pairs of a verb and its arguments:
 * "share" TAG PATH, "overlay" PATH, "modules" PATH RELEASE, "load" FILE OPTIONS.
 */
static void set_up(char *at, const char *end)
{
	struct timespec now = {.tv_sec = atoll(next_string(&at, end))};

	now.tv_nsec = atol(next_string(&at, end));
	clock_settime(CLOCK_REALTIME, &now);
	mount_9p("base", BASE, MS_RDONLY);
	mount_at("tmpfs", "/memory", "tmpfs", 0, "mode=755,size=75%");
	mount_overlay("/", ROOT);
	mount_system();
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
	tune();
}

/* -- one command ---------------------------------------------------------------------------- */

struct job {
	pid_t pid;
	int status; /* of wait(2), once `ended` */
	int ended;
	int to_child; /* our end of its stdin, -1 once closed */
	int from_out; /* our end of its stdout, or of its terminal */
	int from_err; /* our end of its stderr, -1 with a terminal */
	int tty;
	int stdin_eof;             /* the host has no more */
	size_t have;               /* bytes waiting in `room` for the child */
	char room[STDIN_ROOM + 1]; /* and a Ctrl-D */
};

struct command {
	char *folder;
	char **argv;
	char **envp;
	int tty, rows, columns;
};

static char **string_list(int count, char **at, const char *end)
{
	char **list;

	if (count < 0 || count > (1 << 20))
		fail("a list of %d strings from the host", count);
	list = calloc((size_t)count + 1, sizeof(*list));
	if (list == NULL)
		fail("no memory for %d strings", count);
	for (int i = 0; i < count; i++)
		list[i] = next_string(at, end);
	return list;
}

static struct command parse_command(char *at, const char *end)
{
	struct command command = {.folder = next_string(&at, end)};

	command.tty = next_number(&at, end);
	command.rows = next_number(&at, end);
	command.columns = next_number(&at, end);
	command.argv = string_list(next_number(&at, end), &at, end);
	command.envp = string_list(next_number(&at, end), &at, end);
	return command;
}

static void __attribute__((noreturn)) become(const struct command *command, int in, int out,
                                             int err)
{
	sigset_t none;

	setsid();
	signal(SIGPIPE, SIG_DFL);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	if (command->tty)
		ioctl(0, TIOCSCTTY, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (chdir(command->folder) < 0) {
		dprintf(2, "lab: cannot enter %s: %s\n", command->folder, strerror(errno));
		_exit(126);
	}
	environ = command->envp;
	execvp(command->argv[0], command->argv);
	dprintf(2, "lab: %s: %s\n", command->argv[0],
	        errno == ENOENT ? "command not found" : strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void set_size(int fd, int rows, int columns)
{
	struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};

	ioctl(fd, TIOCSWINSZ, &size);
}

static void open_terminal(struct job *job, int *child, const struct command *command)
{
	int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int unlock = 0, number = 0;
	char name[32];

	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0 ||
	    ioctl(master, TIOCGPTN, &number) < 0)
		fail("no terminal for the command: %s", strerror(errno));
	snprintf(name, sizeof(name), "/dev/pts/%d", number);
	child[0] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (child[0] < 0)
		fail("cannot open %s: %s", name, strerror(errno));
	child[1] = child[2] = child[0];
	set_size(master, command->rows, command->columns);
	job->from_out = master;
	job->to_child = fcntl(master, F_DUPFD_CLOEXEC, 0);
	job->from_err = -1;
}

static void open_pipes(struct job *job, int *child)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		fail("no pipes for the command: %s", strerror(errno));
	child[0] = in[0];
	child[1] = out[1];
	child[2] = err[1];
	job->to_child = in[1];
	job->from_out = out[0];
	job->from_err = err[0];
	fcntl(job->from_err, F_SETFL, O_NONBLOCK);
}

static void start(struct job *job, const struct command *command)
{
	int child[3];

	memset(job, 0, offsetof(struct job, room));
	job->tty = command->tty;
	if (command->tty)
		open_terminal(job, child, command);
	else
		open_pipes(job, child);
	fcntl(job->from_out, F_SETFL, O_NONBLOCK);
	fcntl(job->to_child, F_SETFL, O_NONBLOCK);
	job->pid = fork();
	if (job->pid == 0)
		become(command, child[0], child[1], child[2]);
	if (job->pid < 0)
		fail("cannot start the command: %s", strerror(errno));
	close(child[0]);
	if (!command->tty) {
		close(child[1]);
		close(child[2]);
	}
}

/* Passes on what there is to read. Returns 0 once nothing can come any more. */
static int forward(int fd, enum frame type)
{
	char data[CHUNK];
	ssize_t n = read(fd, data, sizeof(data));

	if (n > 0)
		send_frame(type, data, (uint32_t)n);
	/* A terminal says EIO when no process has it open. */
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void close_stdin(struct job *job)
{
	if (job->to_child >= 0)
		close(job->to_child);
	job->to_child = -1;
}

static void grant(size_t bytes)
{
	uint32_t count = (uint32_t)bytes;

	if (count > 0)
		send_frame(F_CREDIT, &count, sizeof(count));
}

static void feed_stdin(struct job *job)
{
	ssize_t n = write(job->to_child, job->room, job->have);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) { /* it has closed its stdin: the rest is for nobody */
		grant(job->have);
		job->have = 0;
		close_stdin(job);
		return;
	}
	memmove(job->room, job->room + n, job->have - (size_t)n);
	job->have -= (size_t)n;
	grant((size_t)n);
}

static void take_stdin(struct job *job, const char *data, uint32_t length)
{
	static const char end_of_file = 4; /* Ctrl-D: a terminal has no other way */

	if (length == 0) {
		job->stdin_eof = 1;
		if (!job->tty)
			return;
		data = &end_of_file;
		length = 1;
	}
	if (job->to_child < 0) {
		grant(length);
		return;
	}
	if (length > sizeof(job->room) - job->have)
		fail("the host sent more input than was asked for");
	memcpy(job->room + job->have, data, length);
	job->have += length;
}

static void take_frame(struct job *job)
{
	uint32_t length;
	char type;
	char *payload;

	read_header(&type, &length);
	payload = read_payload(length);
	if (type == F_STDIN) {
		take_stdin(job, payload, length);
	} else if (type == F_WINSIZE) {
		char *at = payload;
		int rows = next_number(&at, payload + length);
		int columns = next_number(&at, payload + length);

		if (job->tty)
			set_size(job->from_out, rows, columns);
	} else {
		fail("unexpected frame '%c' while a command runs", type);
	}
	free(payload);
}

static void reap(struct job *job)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != job->pid)
			continue;
		job->status = status;
		job->ended = 1;
	}
}

static void serve(struct job *job, int signals)
{
	const struct timespec breath = {.tv_nsec = 20000000};
	struct signalfd_siginfo info;

	while (!job->ended) {
		struct pollfd set[] = {
		        {.fd = port, .events = POLLIN},
		        {.fd = signals, .events = POLLIN},
		        {.fd = job->from_out, .events = POLLIN},
		        {.fd = job->from_err, .events = POLLIN},
		        {.fd = job->have > 0 ? job->to_child : -1, .events = POLLOUT},
		};

		if (job->stdin_eof && job->have == 0 && !job->tty)
			close_stdin(job);
		if (poll(set, 5, -1) < 0)
			continue;
		if (set[2].revents && !forward(job->from_out, F_OUT)) {
			if (job->tty) { /* nobody has it open, but somebody may open it */
				nanosleep(&breath, NULL);
			} else {
				close(job->from_out);
				job->from_out = -1;
			}
		}
		if (set[3].revents && !forward(job->from_err, F_ERR)) {
			close(job->from_err);
			job->from_err = -1;
		}
		if (set[4].revents)
			feed_stdin(job);
		if (set[0].revents & POLLHUP)
			power_off();
		if (set[0].revents & POLLIN)
			take_frame(job);
		if (set[1].revents && read(signals, &info, sizeof(info)) > 0)
			reap(job);
	}
}

/* Ends whatever the command left running, so that its pipes close, and passes on the rest. */
static void finish(struct job *job)
{
	int fds[] = {job->from_out, job->from_err};
	const enum frame types[] = {F_OUT, F_ERR};

	kill(-1, SIGKILL);
	close_stdin(job);
	for (int i = 0; i < 2; i++) {
		struct pollfd one = {.fd = fds[i], .events = POLLIN};

		/* A process that cannot be killed is not waited for longer than that. */
		while (fds[i] >= 0 && poll(&one, 1, 5000) > 0 && forward(fds[i], types[i]))
			;
		if (fds[i] >= 0)
			close(fds[i]);
	}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void run(char *payload, uint32_t length, int signals)
{
	static struct job job;
	struct command command = parse_command(payload, payload + length);
	int32_t status;

	start(&job, &command);
	free(command.argv);
	free(command.envp);
	serve(&job, signals);
	finish(&job);
	sync(); /* what it wrote to a share is on the host before its status is */
	status = WIFSIGNALED(job.status) ? 128 + WTERMSIG(job.status) : WEXITSTATUS(job.status);
	send_frame(F_EXIT, &status, sizeof(status));
}

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
			run(payload, length, signals);
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
	open_port();
	await_host();
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
