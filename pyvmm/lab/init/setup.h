/* SPDX-License-Identifier: Apache-2.0 */
/* What turns a booted kernel into the machine that commands run on. */
#ifndef LAB_SETUP_H
#define LAB_SETUP_H

void mount_at(const char *what, const char *where, const char *kind, unsigned long flags,
              const char *options);

/* Loads the modules of a list, the path of one a line. */
void load_modules(const char *list);

/*
 * Setup payload, strings: seconds, nanoseconds; then pairs of a verb and its arguments:
 * "share" TAG PATH, "overlay" PATH, "modules" PATH RELEASE, "load" FILE OPTIONS.
 */
void set_up(char *at, const char *end);

#endif
