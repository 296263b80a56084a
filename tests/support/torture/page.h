/* SPDX-License-Identifier: Apache-2.0 */
/* What a page holds: a function of who owns it, which page it is, and how often it was written. */
#ifndef TORTURE_PAGE_H
#define TORTURE_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul

/* Version 0 is memory that was never written: zeros. */
struct tag {
	uint32_t owner, version;
	uint64_t index;
};

/* Writes the contents of `bytes`, a multiple of 8. */
void stamp(void *block, size_t bytes, struct tag tag);

/* Whether every word is as stamp() would write it. */
bool holds(const void *block, size_t bytes, struct tag tag);

/* Says what is there instead: another version, another page, zeros, parts of two, or noise. */
void explain(char *text, size_t size, const void *block, size_t bytes, struct tag tag);

/* The next number of a sequence; the state is not 0. */
uint64_t chance(uint64_t *state);

/* A number below the limit. */
size_t below(uint64_t *state, size_t limit);

#endif
