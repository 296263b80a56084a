/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of one execution, used up from the front. Beyond the end everything reads as zero.
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
	const uint8_t *at;
	size_t left;
};

static inline size_t input_copy(struct input *input, void *to, size_t bytes)
{
	size_t some = bytes < input->left ? bytes : input->left;

	memset(to, 0, bytes);
	if (some)
		memcpy(to, input->at, some);
	input->at += some;
	input->left -= some;
	return some;
}

static inline uint8_t input_8(struct input *input)
{
	uint8_t value;

	input_copy(input, &value, sizeof(value));
	return value;
}

static inline uint16_t input_16(struct input *input)
{
	uint16_t value;

	input_copy(input, &value, sizeof(value));
	return value;
}

static inline uint32_t input_32(struct input *input)
{
	uint32_t value;

	input_copy(input, &value, sizeof(value));
	return value;
}

static inline uint64_t input_64(struct input *input)
{
	uint64_t value;

	input_copy(input, &value, sizeof(value));
	return value;
}

/* One byte's choice among `count` of at most 256. */
static inline uint32_t input_below(struct input *input, uint32_t count)
{
	return input_8(input) % count;
}

#endif
