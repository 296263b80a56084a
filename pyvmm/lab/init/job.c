/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

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
		        {.fd = port_descriptor(), .events = POLLIN},
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

void run_command(char *payload, uint32_t length, int signals)
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
