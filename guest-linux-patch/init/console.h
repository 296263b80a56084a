/* SPDX-License-Identifier: Apache-2.0 */
/* The command's terminal. */
#ifndef INIT_CONSOLE_H
#define INIT_CONSOLE_H

/* Its descriptor; -1 until it is open. */
extern int console;

void open_console(void);
/* Modes and window size, and it becomes the controlling terminal. */
void set_up_terminal(void);
/* All output must have left before the machine ends, but a VMM that takes none must not keep the
 * guest alive. */
void drain_console(void);

#endif
