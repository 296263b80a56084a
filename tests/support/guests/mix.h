/* SPDX-License-Identifier: Apache-2.0 */
/* The sequence that guests and those who test them share. */
#ifndef TESTS_MIX_H
#define TESTS_MIX_H

#include <stdint.h>

/* Steele, Lea, Flood: SplitMix64's mixing step. */
static inline uint64_t mix(uint64_t value)
{
	value += 0x9e3779b97f4a7c15;
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
	value = (value ^ value >> 27) * 0x94d049bb133111eb;
	return value ^ value >> 31;
}

#endif
