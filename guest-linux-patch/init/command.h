/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest is to run. */
#ifndef INIT_COMMAND_H
#define INIT_COMMAND_H

#include <signal.h>

void set_environment(void);
/* Its arguments; a shell if nothing was named. */
char **read_command(void);
/* Where the command's standard input comes from: the console, or what a relay makes of it. */
int open_input(void);
/* In the child. */
void run_child(char **argv, int input, const sigset_t *mask) __attribute__((noreturn));

#endif
