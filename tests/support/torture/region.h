/* SPDX-License-Identifier: Apache-2.0 */
/* Anonymous memory whose right contents are known, page by page. */
#ifndef TORTURE_REGION_H
#define TORTURE_REGION_H

#include "job.h"
#include "page.h"

struct region {
	struct job *job;
	char *at;
	size_t pages;
	uint32_t *versions; /* of each page; 0: never written since it was mapped */
	uint32_t *names;    /* the index in its tag */
	uint32_t lineage; /* upper bits of new versions: tells a child's pages from the parent's */
};

/* Private anonymous memory of the kernel's small pages. Dies without memory. */
struct region *region_make(struct job *job, size_t pages);
void region_unmake(struct region *region);

/* Over memory that is there already. */
struct region *region_over(struct job *job, void *at, size_t pages);
/* Forgets it without unmapping it. */
void region_forget(struct region *region);

void *region_page(const struct region *region, size_t i);
struct tag region_tag(const struct region *region, size_t i);

/* Gives a page its next version. */
void region_write(struct region *region, size_t i);
/* Whether the bytes, the page itself or a copy, are what the page should hold; counts it if not. */
bool region_is(struct region *region, size_t i, const void *bytes, const char *how);
bool region_check(struct region *region, size_t i);

void region_fill(struct region *region);
void region_verify(struct region *region);

/* Checks a page at random and, half the time, writes it. */
void region_step(struct region *region, uint64_t *state);

/* New versions from here on are told from all others that there are: after a fork. */
void region_new_lineage(struct region *region, uint32_t lineage);

/* madvise() on some of its pages; false with errno. */
bool region_advise(struct region *region, size_t from, size_t count, int advice);
/* Pages out all of it, by MADV_PAGEOUT. */
void region_page_out(struct region *region);

#endif
