/* SPDX-License-Identifier: Apache-2.0 */
/*
 * swapload [-m MIB] [-p PASSES] [-s SECONDS] [-t MIB]
 *
 * Runs in a guest: works on `-m` MiB of memory at random, read and write, page after page, in
 * passes of as many operations as there are pages or of `-s` seconds, whichever is less; then in
 * order, and once more at random, when all pages have been touched since they left. Then, on `-t`
 * MiB that fit into RAM: what a first touch costs, of fresh memory and of memory that was swapped
 * out, and how fast it can be swapped out. Prints one line of JSON after "@@". Times are in
 * nanoseconds. Status 1 if a page did not hold what it should.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

enum { WORDS = PAGE / 8, NOISE = WORDS / 4, LOOK = 64, OCTAVES = 48, STEPS = 16 };
enum { PASSES = 16, TRIES = 6, WAIT_MS = 100, PATIENCE_MS = 60000 };

static unsigned long long wrong;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void pause_ms(long ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A quarter is noise and the rest alike: it compresses about as well as programs' memory does. */
static void fill(uint64_t *page, uint64_t index)
{
	uint64_t state = index * 0x9e3779b97f4a7c15ull + 88172645463325252ull;

	page[0] = 0;
	page[1] = index;
	for (size_t i = 2; i < WORDS; i++)
		page[i] = i < NOISE ? next(&state) : index;
}

/* One operation: a page is checked and written to. */
static void work(uint64_t *page, uint64_t index)
{
	if (page[1] != index)
		wrong++;
	page[0]++;
}

static uint64_t *memory(size_t pages)
{
	/* Linux counts RAM and swap areas, and not the memory of a tier. */
	void *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED) {
		perror("swapload: mmap");
		exit(2);
	}
	/* A kernel without huge pages refuses, rightly. */
	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	return at;
}

static uint64_t *page_of(uint64_t *at, size_t index)
{
	return at + index * WORDS;
}

static double fill_all(uint64_t *at, size_t pages)
{
	double start = now();

	for (size_t i = 0; i < pages; i++)
		fill(page_of(at, i), i);
	return (now() - start) / (double)pages;
}

/* Nanoseconds an operation. */
static double random_pass(uint64_t *at, size_t pages, double limit, uint64_t *state)
{
	double start = now();
	size_t done = 0;

	while (done < pages && (done % LOOK || now() - start < limit)) {
		size_t index = next(state) % pages;

		work(page_of(at, index), index);
		done++;
	}
	return (now() - start) / (double)done;
}

static double sequential_pass(uint64_t *at, size_t pages, double limit)
{
	double start = now();
	size_t done = 0;

	while (done < pages && (done % LOOK || now() - start < limit)) {
		work(page_of(at, done), done);
		done++;
	}
	return (now() - start) / (double)done;
}

/* --- how long single operations take -----------------------------------------------------------
 */

struct histogram {
	unsigned long counts[OCTAVES * STEPS], total;
	double most;
};

static size_t bucket_of(double value)
{
	uint64_t whole = value < 1 ? 1 : (uint64_t)value;
	size_t octave = 63 - (size_t)__builtin_clzll(whole);
	size_t step = octave < 4 ? (whole << (4 - octave)) & (STEPS - 1)
	                         : (whole >> (octave - 4)) & (STEPS - 1);
	size_t bucket = octave * STEPS + step;

	return bucket < OCTAVES * STEPS ? bucket : OCTAVES * STEPS - 1;
}

static double value_of(size_t bucket)
{
	return (double)(1ull << bucket / STEPS) * (1 + (double)(bucket % STEPS) / STEPS);
}

static double percentile(const struct histogram *histogram, double part)
{
	unsigned long seen = 0;

	for (size_t i = 0; i < OCTAVES * STEPS; i++) {
		seen += histogram->counts[i];
		if ((double)seen >= part * (double)histogram->total)
			return value_of(i);
	}
	return histogram->most;
}

static struct histogram timed_pass(uint64_t *at, size_t pages, double limit, uint64_t *state)
{
	static struct histogram histogram;
	double start = now();

	while (histogram.total < pages) {
		size_t index = next(state) % pages;
		double before = now(), after;

		work(page_of(at, index), index);
		after = now();
		histogram.counts[bucket_of(after - before)]++;
		histogram.total++;
		if (after - before > histogram.most)
			histogram.most = after - before;
		if (after - start > limit)
			break;
	}
	return histogram;
}

/* --- first touches, and the way out --------------------------------------------------------------
 */

static long counter(const char *name)
{
	FILE *file = fopen("/proc/vmstat", "re");
	char line[128];
	long value = -1;

	while (file && value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ' ')
			value = strtol(line + strlen(name), NULL, 10);
	if (file)
		fclose(file);
	return value;
}

static void wait_for_writes(void)
{
	for (long waited = 0; counter("nr_writeback") > 0 && waited < PATIENCE_MS; waited++)
		pause_ms(1);
}

static double first_touch_fresh(size_t pages)
{
	uint64_t *at = memory(pages);
	double start = now();

	for (size_t i = 0; i < pages; i++)
		page_of(at, i)[0] = i;
	start = (now() - start) / (double)pages;
	munmap(at, pages * PAGE);
	return start;
}

/* Bytes a second until nothing is left to be written. */
static double page_out(uint64_t *at, size_t pages)
{
	long before = counter("pswpout");
	double start = now();

	if (madvise(at, pages * PAGE, MADV_PAGEOUT))
		return 0;
	wait_for_writes();
	return (double)(counter("pswpout") - before) * PAGE * 1e9 / (now() - start);
}

/* Fills `gone` with the pages that are neither mapped nor in the swap cache; their number. */
static size_t find_gone(uint64_t *at, size_t pages, size_t *gone)
{
	unsigned char *there = malloc(pages);
	size_t count = 0;

	if (!there || mincore(at, pages * PAGE, there))
		exit(2);
	for (size_t i = 0; i < pages; i++) {
		if (there[i] & 1)
			*(volatile uint64_t *)page_of(at, i);
		else
			gone[count++] = i;
	}
	free(there);
	return count;
}

/* Pages that were written stay in the swap cache. Mapped again and paged out once more they go. */
static size_t push_out(uint64_t *at, size_t pages, size_t *gone)
{
	size_t count = 0;

	for (int tries = 0; tries < TRIES && count < pages - pages / 50; tries++) {
		madvise(at, pages * PAGE, MADV_PAGEOUT);
		wait_for_writes();
		pause_ms(WAIT_MS);
		count = find_gone(at, pages, gone);
	}
	return count;
}

static void shuffle(size_t *list, size_t count, uint64_t *state)
{
	for (size_t i = count; i > 1; i--) {
		size_t other = next(state) % i, kept = list[i - 1];

		list[i - 1] = list[other];
		list[other] = kept;
	}
}

struct touch {
	double fresh, swapped, out;
	size_t pages;
};

static struct touch touches(size_t pages, double limit, uint64_t *state)
{
	struct touch touch = {.fresh = first_touch_fresh(pages)};
	size_t *gone = malloc(pages * sizeof(*gone)), count, done = 0;
	uint64_t *at = memory(pages);
	double start;

	if (!gone)
		exit(2);
	fill_all(at, pages);
	touch.out = page_out(at, pages);
	count = push_out(at, pages, gone);
	shuffle(gone, count, state);
	start = now();
	while (done < count && (done % LOOK || now() - start < limit)) {
		work(page_of(at, gone[done]), gone[done]);
		done++;
	}
	touch.swapped = done ? (now() - start) / (double)done : 0;
	touch.pages = done;
	free(gone);
	munmap(at, pages * PAGE);
	return touch;
}

/* --- all of it ---------------------------------------------------------------------------------
 */

struct options {
	size_t pages, passes, touched;
	double limit;
};

static struct options parse(int argc, char **argv)
{
	struct options options = {100 << 8, 3, 16 << 8, 5e9};

	for (int letter; (letter = getopt(argc, argv, "m:p:s:t:")) != -1;) {
		if (letter == 'm')
			options.pages = strtoul(optarg, NULL, 10) << 8;
		else if (letter == 'p')
			options.passes = strtoul(optarg, NULL, 10);
		else if (letter == 's')
			options.limit = strtod(optarg, NULL) * 1e9;
		else if (letter == 't')
			options.touched = strtoul(optarg, NULL, 10) << 8;
		else
			exit(2);
	}
	if (!options.pages || !options.passes || options.passes > PASSES || options.touched < LOOK)
		exit(2);
	return options;
}

static void tell(const struct options *options, double filled, const double *passes,
                 double sequential, double steady, const struct histogram *histogram,
                 const struct touch *touch)
{
	printf("@@{\"schema\": 2, \"pages\": %zu, \"fill\": %.1f, \"passes\": [", options->pages,
	       filled);
	for (size_t i = 0; i < options->passes; i++)
		printf("%s%.1f", i ? ", " : "", passes[i]);
	printf("], \"sequential\": %.1f, \"steady\": %.1f, \"p50\": %.0f, \"p99\": %.0f, "
	       "\"p999\": %.0f, \"most\": %.0f",
	       sequential, steady, percentile(histogram, 0.5), percentile(histogram, 0.99),
	       percentile(histogram, 0.999), histogram->most);
	printf(", \"fresh\": %.1f, \"swapped\": %.1f, \"touched\": %zu, \"out\": %.0f, "
	       "\"wrong\": %llu}\n",
	       touch->fresh, touch->swapped, touch->pages, touch->out, wrong);
}

int main(int argc, char **argv)
{
	struct options options = parse(argc, argv);
	uint64_t *at = memory(options.pages), state = 88172645463325252ull;
	double passes[PASSES] = {0}, filled = fill_all(at, options.pages), sequential, steady;
	struct histogram histogram;
	struct touch touch;

	for (size_t i = 0; i < options.passes; i++)
		passes[i] = random_pass(at, options.pages, options.limit, &state);
	histogram = timed_pass(at, options.pages, options.limit, &state);
	sequential = sequential_pass(at, options.pages, options.limit);
	steady = random_pass(at, options.pages, options.limit, &state);
	munmap(at, options.pages * PAGE);
	touch = touches(options.touched, options.limit, &state);
	tell(&options, filled, passes, sequential, steady, &histogram, &touch);
	return wrong ? 1 : 0;
}
