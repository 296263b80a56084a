/* SPDX-License-Identifier: Apache-2.0 */
#include "page.h"

#include <stdio.h>
#include <string.h>

enum { HEADER = 2 };

static uint64_t first_word(struct tag tag)
{
	return (uint64_t)tag.owner << 32 | tag.version;
}

static uint64_t start(struct tag tag)
{
	return (first_word(tag) + 0x9e3779b97f4a7c15ull) ^ (tag.index + 1) * 0xbf58476d1ce4e5b9ull;
}

static uint64_t following(uint64_t word)
{
	return word * 6364136223846793005ull + 1442695040888963407ull;
}

void stamp(void *block, size_t bytes, struct tag tag)
{
	uint64_t *words = block, word = start(tag);

	if (!tag.version) {
		memset(block, 0, bytes);
		return;
	}
	words[0] = first_word(tag);
	words[1] = tag.index;
	for (size_t i = HEADER; i < bytes / 8; i++)
		words[i] = word = following(word);
}

/* How many words from the first on are right. */
static size_t right_words(const void *block, size_t bytes, struct tag tag)
{
	const uint64_t *words = block;
	uint64_t word = start(tag);
	size_t i = HEADER;

	if (!tag.version) {
		for (i = 0; i < bytes / 8 && !words[i];)
			i++;
		return i;
	}
	if (words[0] != first_word(tag) || words[1] != tag.index)
		return 0;
	while (i < bytes / 8 && words[i] == (word = following(word)))
		i++;
	return i;
}

bool holds(const void *block, size_t bytes, struct tag tag)
{
	return right_words(block, bytes, tag) == bytes / 8;
}

void explain(char *text, size_t size, const void *block, size_t bytes, struct tag tag)
{
	const uint64_t *words = block;
	struct tag found = {(uint32_t)(words[0] >> 32), (uint32_t)words[0], words[1]};
	size_t right = right_words(block, bytes, found), good = right_words(block, bytes, tag);
	const char *what = "noise";

	if (holds(block, bytes, (struct tag){0}))
		what = "zeros";
	else if (right < bytes / 8)
		what = right > HEADER ? "torn" : "noise";
	else if (found.owner == tag.owner && found.index == tag.index)
		what = "another version";
	else
		what = found.owner == tag.owner ? "another page" : "a foreign page";
	snprintf(text, size,
	         "%s: wanted owner %u page %llu version %x, found owner %u page %llu version %x, "
	         "%zu words right, %zu of what was found (%016llx there)",
	         what, tag.owner, (unsigned long long)tag.index, tag.version, found.owner,
	         (unsigned long long)found.index, found.version, good, right,
	         (unsigned long long)(good < bytes / 8 ? words[good] : 0));
}

uint64_t chance(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull;
}

size_t below(uint64_t *state, size_t limit)
{
	return (chance(state) >> 33) % limit;
}
