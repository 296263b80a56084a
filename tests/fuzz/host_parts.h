/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the host share: its table of descriptors, and the input's word on each call. */
#ifndef FUZZ_HOST_PARTS_H
#define FUZZ_HOST_PARTS_H

#define FUZZ_HOST_ITSELF
#include "host.h"

struct file {
	enum host_kind kind;
	int same; /* the row that this one is a duplicate of */
	uint64_t count, edges;
	bool ended;
	size_t room;
	/* What waits: bytes of a stream, or one frame. */
	uint8_t line[HOST_LINE_BYTES];
	size_t length;
};

/* host.c */
struct file *file_of(int fd);

/* moment.c */
int next_outcome(void);
ssize_t allowed(size_t bytes);
int refuse(void);
void forget_moments(void);

/* transfer.c */
void forget_noise(void);

#endif
