/* SPDX-License-Identifier: Apache-2.0 */
/* What init tells people. */
#ifndef INIT_SAY_H
#define INIT_SAY_H

/* To the kernel's console; where there is none, to its log. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Why there is no going on. The kernel prints it without interrupts, so that it is out before the
 * machine ends; the VMM finds it by its beginning. */
void say_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
