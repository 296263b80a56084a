// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: what was called how often, in
 * /sys/kernel/debug/symbiotic/stats.
 */

#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "internal.h"

static struct dentry *symbiotic_directory;

static void symbiotic_show_call(struct symbiotic_call *call, void *context)
{
	struct seq_file *file = context;
	int cpu;

	for_each_possible_cpu(cpu) {
		struct symbiotic_stats *stats = per_cpu_ptr(call->stats, cpu);

		if (stats->calls)
			seq_printf(file, "%#06x %3d %12llu %12llu  %s\n", call->number, cpu,
				   stats->calls, stats->errors, module_name(call->owner));
	}
}

static int stats_show(struct seq_file *file, void *unused)
{
	int cpu;

	seq_puts(file, "registered:");
	for_each_online_cpu(cpu) {
		if (per_cpu(symbiotic_cpus, cpu).page)
			seq_printf(file, " %d", cpu);
	}
	seq_puts(file, "\nnumber cpu        calls       errors  owner\n");
	symbiotic_visit_calls(symbiotic_show_call, file);
	for_each_possible_cpu(cpu) {
		u64 unknown = per_cpu(symbiotic_cpus, cpu).unknown;

		if (unknown)
			seq_printf(file, "%6s %3d %12llu %12llu  -\n", "other", cpu,
				   unknown, unknown);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int swap_show(struct seq_file *file, void *unused)
{
	struct symbiotic_swap_stats stats;
	int i, error = symbiotic_swap_collect(&stats);

	if (error)
		return error;
	seq_printf(file, "swap area      %s\n", stats.flags & SYMBIOTIC_SWAP_ON ? "on" : "off");
	seq_printf(file, "slots          %llu\n", stats.slots);
	seq_printf(file, "used           %llu\n", stats.used);
	seq_printf(file, "adopted        %llu\n", stats.adopted);
	seq_printf(file, "offered        %llu\n", stats.offered);
	seq_printf(file, "adopted_total  %llu\n", stats.adopted_total);
	seq_printf(file, "mapped_by_vmm  %llu\n", stats.mapped_by_vmm);
	seq_printf(file, "refused_shared %llu\n", stats.refused_shared);
	seq_printf(file, "refused_mode   %llu\n", stats.refused_mode);
	seq_printf(file, "refused_vmm    %llu\n", stats.refused_vmm);
	seq_puts(file, "reasons       ");
	for (i = 0; i < SYMBIOTIC_SWAP_REASONS; i++)
		seq_printf(file, " %llu", stats.refused_reasons[i]);
	seq_printf(file, "\nlost_races     %llu\n", stats.lost_races);
	seq_printf(file, "freed          %llu\n", stats.freed);
	seq_printf(file, "evicted        %llu\n", stats.evicted);
	seq_printf(file, "evict_failed   %llu\n", stats.evict_failed);
	seq_printf(file, "pages_out      %llu\n", stats.pages_out);
	seq_printf(file, "pages_in       %llu\n", stats.pages_in);
	seq_printf(file, "zero_filled    %llu\n", stats.zero_filled);
	seq_printf(file, "moved_ahead    %llu\n", stats.moved_ahead);
	seq_printf(file, "moved_behind   %llu\n", stats.moved_behind);
	seq_printf(file, "move_failed    %llu\n", stats.move_failed);
	seq_printf(file, "follow_missed  %llu\n", stats.follow_missed);
	seq_printf(file, "discarded      %llu\n", stats.discarded);
	seq_printf(file, "mover_ns       %llu\n", stats.mover_ns);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(swap);

void symbiotic_debugfs_init(void)
{
	symbiotic_directory = debugfs_create_dir("symbiotic", NULL);
	debugfs_create_file("stats", 0400, symbiotic_directory, NULL, &stats_fops);
	if (IS_ENABLED(CONFIG_SYMBIOTIC_SWAP) || IS_ENABLED(CONFIG_SYMBIOTIC_TIER))
		debugfs_create_file("swap", 0400, symbiotic_directory, NULL, &swap_fops);
}

void symbiotic_debugfs_exit(void)
{
	debugfs_remove_recursive(symbiotic_directory);
}
