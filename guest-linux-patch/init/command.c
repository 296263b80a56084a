/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "console.h"
#include "end.h"
#include "file.h"
#include "option.h"
#include "port.h"

#define FRAME_DLE 0x10
#define FRAME_EOT 0x04

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

void set_environment(void)
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

char **read_command(void)
{
	static char *shell[] = {"-sh", NULL};
	size_t length;
	char *data = read_file("/pyvmm/command", &length);

	char wanted[32];
	const bool asked = option("pyvmm.command", wanted, sizeof(wanted));
	const size_t size = asked ? strtoul(wanted, NULL, 10) : 0;

	if (!data && errno != ENOENT)
		fail("cannot read /pyvmm/command: %s", strerror(errno));
	if (!data)
		length = 0;
	if (asked && length != size)
		fail("the initramfs has %zu of the %zu bytes of the command: it was not unpacked "
		     "whole",
		     length, size);
	return length ? split_zero(data, length) : shell;
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

int open_input(void)
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

void run_child(char **argv, int input, const sigset_t *mask)
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
