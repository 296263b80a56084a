/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture [-m MIB] [-t SECONDS] [-w WORKERS] [-r SEED] [-d DISK] [-s SWAP] SCENARIO...
 *
 * Uses memory in every way that Linux has, while it is swapped, and checks each page whenever it
 * can. WORKERS processes for each scenario share the memory; "all" is every scenario. DISK is
 * overwritten, SWAP is taken away and given back. A line for each worker, one for each bad page.
 * Status 0: not one page was bad; 1: some were; 2: a scenario could not run. Only for pyvmm's
 * guests: it mounts things and turns the knobs of the whole machine.
 */
#include "cgroup.h"
#include "page.h"
#include "scenario.h"

#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_WORKERS = 256 };

struct scenario {
	const char *name, *text;
	void (*run)(struct job *job);
};

static const struct scenario scenarios[] = {
#define ENTRY(name, text) {#name, text, scenario_##name},
        SCENARIOS(ENTRY)
#undef ENTRY
};

enum { KINDS = sizeof(scenarios) / sizeof(*scenarios) };

struct worker {
	const struct scenario *scenario;
	struct job job;
	pid_t pid;
};

struct options {
	size_t mib, workers;
	double seconds;
	uint64_t seed;
	const char *disk, *swap;
};

static void usage(void)
{
	fprintf(stderr, "torture [-m MIB] [-t SECONDS] [-w WORKERS] [-r SEED] [-d DISK] [-s SWAP] "
	                "SCENARIO...\n");
	for (size_t i = 0; i < KINDS; i++)
		fprintf(stderr, "  %-8s %s\n", scenarios[i].name, scenarios[i].text);
	exit(2);
}

static struct options parse(int argc, char **argv)
{
	struct options options = {.mib = 64, .workers = 1, .seconds = 10, .seed = 1};

	for (int letter; (letter = getopt(argc, argv, "m:t:w:r:d:s:")) != -1;) {
		if (letter == 'm')
			options.mib = strtoul(optarg, NULL, 0);
		else if (letter == 't')
			options.seconds = strtod(optarg, NULL);
		else if (letter == 'w')
			options.workers = strtoul(optarg, NULL, 0);
		else if (letter == 'r')
			options.seed = strtoull(optarg, NULL, 0);
		else if (letter == 'd')
			options.disk = optarg;
		else if (letter == 's')
			options.swap = optarg;
		else
			usage();
	}
	if (optind == argc || !options.workers)
		usage();
	return options;
}

static struct worker *add(struct worker *list, size_t *count, const struct scenario *scenario,
                          const struct options *options)
{
	for (size_t i = 0; i < options->workers && *count < MOST_WORKERS; i++) {
		struct worker *worker = &list[*count];

		worker->scenario = scenario;
		worker->job.name = scenario->name;
		worker->job.number = (unsigned)(*count)++;
	}
	return list;
}

/* Whether the machine has what "all" may then include. */
static bool possible(const struct scenario *scenario, bool alone, const struct options *options)
{
	if (scenario->run == scenario_zerocopy)
		return if_nametoindex("eth0");
	return options->swap || !alone;
}

/* Scenarios that change the whole machine have one worker. */
static void choose(struct worker *list, size_t *count, const char *name,
                   const struct options *options)
{
	struct options single = *options;
	size_t before = *count;

	single.workers = 1;
	for (size_t i = 0; i < KINDS; i++) {
		bool alone =
		        scenarios[i].run == scenario_swapoff || scenarios[i].run == scenario_stir;

		if (!strcmp(name, scenarios[i].name) ||
		    (!strcmp(name, "all") && possible(&scenarios[i], alone, options)))
			add(list, count, &scenarios[i], alone ? &single : options);
	}
	if (*count == before) {
		fprintf(stderr, "there is no scenario %s\n", name);
		usage();
	}
}

/* What the guest's first process was given to run: no other machine has such a file. */
static void only_in_a_guest(void)
{
	if (!access("/pyvmm/command", F_OK))
		return;
	fprintf(stderr,
	        "torture: this is no guest of pyvmm, and would not be the same afterwards\n");
	exit(2);
}

static size_t disk_pages(const char *disk)
{
	int fd = disk ? open(disk, O_RDONLY | O_CLOEXEC) : -1;
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

	if (fd >= 0)
		close(fd);
	return size < 0 ? 0 : (size_t)size / PAGE;
}

static void share_out(struct worker *list, size_t count, const struct options *options)
{
	struct tally *tallies = mmap(NULL, count * sizeof(*tallies), PROT_READ | PROT_WRITE,
	                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	size_t pages = (options->mib << 20) / PAGE / count, disk = disk_pages(options->disk);

	if (tallies == MAP_FAILED || mlock(tallies, count * sizeof(*tallies))) {
		perror("torture");
		exit(2);
	}
	for (size_t i = 0; i < count; i++) {
		struct job *job = &list[i].job;

		job->pages = pages;
		job->seed = (options->seed + i) * 0x9e3779b97f4a7c15ull | 1;
		job->end = now() + options->seconds;
		job->disk = disk >= pages * count ? options->disk : NULL;
		job->disk_from = i * pages;
		job->swap = options->swap;
		job->tally = &tallies[i];
	}
}

static void start(struct worker *worker)
{
	worker->pid = fork();
	if (worker->pid)
		return;
	worker->scenario->run(&worker->job);
	fflush(stdout);
	_exit(0);
}

/* 0, 1 or 2, as the whole program's status. */
static int finish(struct worker *worker)
{
	struct tally *tally = worker->job.tally;
	int status = 0, found;

	if (worker->pid < 0 || waitpid(worker->pid, &status, 0) != worker->pid)
		status = -1;
	found = tally->bad ? 1 : status ? 2 : 0;
	if (WIFSIGNALED(status) || status == -1)
		found = 1;
	printf("%s %s %u: %lu written, %lu checked, %lu bad, status %#x\n", found ? "FAILED" : "ok",
	       worker->job.name, worker->job.number, tally->written, tally->checked, tally->bad,
	       status);
	fflush(stdout);
	return found;
}

static int hold(char **argv)
{
	struct tally tally = {0};
	struct job job = {.name = "hold", .tally = &tally};

	job.pages = strtoul(argv[2], NULL, 0);
	job.number = (unsigned)strtoul(argv[3], NULL, 0);
	return exec_hold(&job);
}

int main(int argc, char **argv)
{
	static struct worker list[MOST_WORKERS];
	struct options options;
	size_t count = 0;
	int worst = 0;

	if (argc == 4 && !strcmp(argv[1], "--hold"))
		return hold(argv);
	options = parse(argc, argv);
	only_in_a_guest();
	for (int i = optind; i < argc; i++)
		choose(list, &count, argv[i], &options);
	/* Should it fail, the scenarios that need it say so. */
	group_prepare();
	share_out(list, count, &options);
	for (size_t i = 0; i < count; i++)
		start(&list[i]);
	for (size_t i = 0; i < count; i++) {
		int found = finish(&list[i]);

		worst = worst == 1 || found == 1 ? 1 : found ? found : worst;
	}
	printf("torture: %zu workers, %s\n", count, worst ? "FAILED" : "all pages right");
	return worst;
}
