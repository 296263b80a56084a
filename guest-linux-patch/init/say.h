/* SPDX-License-Identifier: Apache-2.0 */
/* What init tells people. */
#ifndef INIT_SAY_H
#define INIT_SAY_H

/* To the kernel's console; where there is none, to its log. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
