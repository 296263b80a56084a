/* SPDX-License-Identifier: Apache-2.0 */
/*
 * membench gups|stream|sort [-m KIB] [-p PROCESSES] [-s SECONDS] [-r PASSES]
 *
 * Runs in a guest: one of three programs that people measure memory with, on `-m` KiB, which so
 * many processes share out among themselves. Each fills its part; then all begin at once.
 *
 * - gups: updates at random, a word each, XORed with the number that led to it (HPC Challenge,
 *   RandomAccess): four for each word, or as many as there are in `-s` seconds. The same once more,
 *   untimed, and each word is what it was. Other than there, a table may have any size.
 * - stream: a[i] = b[i] + q * c[i] from the first to the last, `-r` times (STREAM, triad).
 * - sort: 64-bit keys by radix: into 256 buckets by their first byte, then each of those.
 *
 * Prints one line of JSON after "@@", in which each list has a number for each process. Times are
 * in nanoseconds an operation: an update, 8 bytes that are read or written, a key. Status 1 if the
 * memory did not hold what it should.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FILL, TIME, TIMES };
enum { MAX_PROCESSES = 64, LOOK = 256, UPDATES_A_WORD = 4 };
enum { BUCKETS = 256, BUCKET_SHIFT = 56, DIGIT_BITS = 10, DIGITS = 1 << DIGIT_BITS, ROUNDS = 6 };

struct options {
	size_t bytes, processes, passes;
	double seconds;
};

/* What a process found out. */
struct result {
	double times[TIMES];
	uint64_t operations, wrong;
};

/* Mapped by all processes. */
struct shared {
	pthread_barrier_t start;
	struct result results[MAX_PROCESSES];
};

static struct shared *shared;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void *memory(size_t bytes, int sharing)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		fail("membench: mmap");
	/* A kernel without huge pages refuses, rightly. */
	madvise(at, bytes, MADV_NOHUGEPAGE);
	return at;
}

/* --- gups ------------------------------------------------------------------------------------ */

/* The sequence of HPC Challenge: x^63 + x^2 + x + 1 over GF(2), a step. */
static uint64_t step(uint64_t value)
{
	return value << 1 ^ ((int64_t)value < 0 ? 7 : 0);
}

static size_t index_of(uint64_t value, size_t words)
{
	return (size_t)((unsigned __int128)value * words >> 64);
}

/* Scrambles; at first a step of zeroes and ones only would stay in a corner of the table. */
static uint64_t seed_of(size_t process)
{
	uint64_t value = 0x9e3779b97f4a7c15ull * (process + 1);

	value = (value ^ value >> 31) * 0xbf58476d1ce4e5b9ull;
	return value ^ value >> 29;
}

/* At most so many, until the clock says `end`; how many it were. */
static uint64_t update(uint64_t *table, size_t words, uint64_t seed, uint64_t most, double end)
{
	uint64_t done = 0;

	while (done < most && (done % LOOK || now() < end)) {
		seed = step(seed);
		table[index_of(seed, words)] ^= seed;
		done++;
	}
	return done;
}

static void gups(const struct options *options, size_t process, struct result *result)
{
	size_t words = options->bytes / 8;
	uint64_t *table = memory(options->bytes, MAP_PRIVATE), seed = seed_of(process);
	double start = now();

	for (size_t i = 0; i < words; i++)
		table[i] = i;
	result->times[FILL] = (now() - start) / (double)words;
	pthread_barrier_wait(&shared->start);
	start = now();
	result->operations =
	        update(table, words, seed, UPDATES_A_WORD * words, start + options->seconds * 1e9);
	result->times[TIME] = (now() - start) / (double)result->operations;
	update(table, words, seed, result->operations, INFINITY);
	for (size_t i = 0; i < words; i++)
		result->wrong += table[i] != i;
}

/* --- stream ---------------------------------------------------------------------------------- */

static double b_of(size_t i)
{
	return (double)i;
}

static double c_of(size_t i)
{
	return (double)(i % 1021 + 1);
}

static void stream(const struct options *options, size_t process, struct result *result)
{
	size_t length = options->bytes / 24;
	double *a = memory(length * 8, MAP_PRIVATE), *b = memory(length * 8, MAP_PRIVATE);
	double *c = memory(length * 8, MAP_PRIVATE), start = now(), factor = 0;

	for (size_t i = 0; i < length; i++) {
		a[i] = 0;
		b[i] = b_of(i);
		c[i] = c_of(i);
	}
	result->times[FILL] = (now() - start) / (double)(3 * length);
	pthread_barrier_wait(&shared->start);
	start = now();
	for (size_t pass = 0; pass < options->passes; pass++) {
		/* Another one each time: a page of the pass before would show. */
		factor = (double)(process + pass + 2);
		for (size_t i = 0; i < length; i++)
			a[i] = b[i] + factor * c[i];
	}
	result->operations = 3 * length * options->passes;
	result->times[TIME] = (now() - start) / (double)result->operations;
	for (size_t i = 0; i < length; i++)
		result->wrong +=
		        a[i] != b_of(i) + factor * c_of(i) || b[i] != b_of(i) || c[i] != c_of(i);
}

/* --- sort ------------------------------------------------------------------------------------ */

struct keys {
	uint64_t *at;
	size_t count;
};

/* What stays the same when keys are put into another order. */
struct sums {
	uint64_t sum, xor, squares;
};

static struct sums sums_of(struct keys keys)
{
	struct sums sums = {0};

	for (size_t i = 0; i < keys.count; i++) {
		sums.sum += keys.at[i];
		sums.xor ^= keys.at[i];
		sums.squares += keys.at[i] * keys.at[i];
	}
	return sums;
}

/* Sorts by all but the first byte. The number of rounds is even: the keys end where they were. */
static void sort_bucket(struct keys keys, uint64_t *room)
{
	static size_t counts[ROUNDS][DIGITS];

	memset(counts, 0, sizeof(counts));
	for (size_t i = 0; i < keys.count; i++)
		for (size_t round = 0; round < ROUNDS; round++)
			counts[round][keys.at[i] >> round * DIGIT_BITS & (DIGITS - 1)]++;
	for (size_t round = 0; round < ROUNDS; round++) {
		size_t place = 0, *places = counts[round];
		uint64_t *from = round % 2 ? room : keys.at, *to = round % 2 ? keys.at : room;

		for (size_t digit = 0; digit < DIGITS; digit++) {
			size_t count = places[digit];

			places[digit] = place;
			place += count;
		}
		for (size_t i = 0; i < keys.count; i++)
			to[places[from[i] >> round * DIGIT_BITS & (DIGITS - 1)]++] = from[i];
	}
}

/* Sorts into `to`, and spoils `keys`. */
static void sort_keys(struct keys keys, uint64_t *to)
{
	size_t counts[BUCKETS] = {0}, places[BUCKETS], place = 0;

	for (size_t i = 0; i < keys.count; i++)
		counts[keys.at[i] >> BUCKET_SHIFT]++;
	for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
		places[bucket] = place;
		place += counts[bucket];
	}
	for (size_t i = 0; i < keys.count; i++)
		to[places[keys.at[i] >> BUCKET_SHIFT]++] = keys.at[i];
	for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
		size_t first = places[bucket] - counts[bucket];

		sort_bucket((struct keys){to + first, counts[bucket]}, keys.at + first);
	}
}

static uint64_t next_key(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void sort(const struct options *options, size_t process, struct result *result)
{
	struct keys keys = {.count = options->bytes / 16};
	uint64_t *sorted = memory(keys.count * 8, MAP_PRIVATE), state = seed_of(process);
	struct sums before, after;
	double start = now();

	keys.at = memory(keys.count * 8, MAP_PRIVATE);
	for (size_t i = 0; i < keys.count; i++) {
		keys.at[i] = next_key(&state);
		sorted[i] = 0;
	}
	result->times[FILL] = (now() - start) / (double)(2 * keys.count);
	before = sums_of(keys);
	pthread_barrier_wait(&shared->start);
	start = now();
	sort_keys(keys, sorted);
	result->operations = keys.count;
	result->times[TIME] = (now() - start) / (double)keys.count;
	after = sums_of((struct keys){sorted, keys.count});
	result->wrong = !!memcmp(&before, &after, sizeof(before));
	for (size_t i = 1; i < keys.count; i++)
		result->wrong += sorted[i - 1] > sorted[i];
}

/* --- all of them ----------------------------------------------------------------------------- */

typedef void program(const struct options *options, size_t process, struct result *result);

static const struct {
	const char *name;
	program *run;
} programs[] = {{"gups", gups}, {"stream", stream}, {"sort", sort}};

static program *find(const char *name)
{
	for (size_t i = 0; name && i < sizeof(programs) / sizeof(*programs); i++)
		if (!strcmp(name, programs[i].name))
			return programs[i].run;
	fprintf(stderr, "membench: gups, stream or sort?\n");
	exit(2);
}

static struct options parse(int argc, char **argv)
{
	struct options options = {100 << 20, 1, 2, 5};

	for (int letter; (letter = getopt(argc, argv, "m:p:s:r:")) != -1;) {
		if (letter == 'm')
			options.bytes = strtoul(optarg, NULL, 10) << 10;
		else if (letter == 'p')
			options.processes = strtoul(optarg, NULL, 10);
		else if (letter == 's')
			options.seconds = strtod(optarg, NULL);
		else if (letter == 'r')
			options.passes = strtoul(optarg, NULL, 10);
		else
			exit(2);
	}
	if (!options.processes || options.processes > MAX_PROCESSES || !options.passes ||
	    options.seconds <= 0 || options.bytes / options.processes < 4096) {
		fprintf(stderr, "membench: wants 1 to %d processes with 4 KiB each, and time\n",
		        MAX_PROCESSES);
		exit(2);
	}
	options.bytes /= options.processes;
	return options;
}

static struct shared *share(size_t processes)
{
	struct shared *made = memory(sizeof(*made), MAP_SHARED);
	pthread_barrierattr_t attributes;

	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	if (pthread_barrier_init(&made->start, &attributes, (unsigned)processes))
		fail("membench: barrier");
	return made;
}

/* One that was killed keeps the others waiting for it: then all end. */
static void wait_for(const pid_t *children, size_t count)
{
	for (size_t left = count; left; left--) {
		int status;

		if (wait(&status) < 0)
			fail("membench: wait");
		if (!status)
			continue;
		fprintf(stderr, "membench: a process ended with status %#x\n", (unsigned)status);
		for (size_t i = 0; i < count; i++)
			kill(children[i], SIGKILL);
		exit(2);
	}
}

static void tell_times(const char *name, const struct options *options, size_t which)
{
	printf(", \"%s\": [", name);
	for (size_t i = 0; i < options->processes; i++)
		printf("%s%.3f", i ? ", " : "", shared->results[i].times[which]);
	printf("]");
}

static uint64_t tell(const char *name, const struct options *options)
{
	uint64_t operations = 0, wrong = 0;

	for (size_t i = 0; i < options->processes; i++) {
		operations += shared->results[i].operations;
		wrong += shared->results[i].wrong;
	}
	printf("@@{\"schema\": 1, \"program\": \"%s\", \"bytes\": %zu", name, options->bytes);
	tell_times("fill", options, FILL);
	tell_times("time", options, TIME);
	printf(", \"operations\": %llu, \"wrong\": %llu}\n", (unsigned long long)operations,
	       (unsigned long long)wrong);
	return wrong;
}

int main(int argc, char **argv)
{
	struct options options = parse(argc, argv);
	program *run = find(argv[optind]);
	pid_t children[MAX_PROCESSES] = {0};

	shared = share(options.processes);
	for (size_t i = 0; i < options.processes; i++) {
		children[i] = fork();
		if (children[i] < 0)
			fail("membench: fork");
		if (!children[i]) {
			run(&options, i, &shared->results[i]);
			_exit(0);
		}
	}
	wait_for(children, options.processes);
	return tell(argv[optind], &options) ? 1 : 0;
}
