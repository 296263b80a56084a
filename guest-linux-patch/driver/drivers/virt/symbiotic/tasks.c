// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: which tasks there are.
 *
 * These are called under rcu_read_lock(), which keeps the tasks. What is read
 * of them may be changing at the same time on other CPUs, as it may for /proc.
 */

#include <linux/cred.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/sched/cputime.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>

#include "internal.h"

/* A bound on the time that one call takes. */
#define SYMBIOTIC_PIDS_PER_CALL		1024

static_assert(sizeof(struct symbiotic_task) == 96);
static_assert(SYMBIOTIC_TASK_COMM_LEN == TASK_COMM_LEN);

static u32 symbiotic_task_flags(struct task_struct *task)
{
	u32 flags = 0;

	if (READ_ONCE(task->flags) & PF_KTHREAD)
		flags |= SYMBIOTIC_TASK_KTHREAD;
	if (READ_ONCE(task->flags) & PF_EXITING)
		flags |= SYMBIOTIC_TASK_EXITING;
	if (is_idle_task(task))
		flags |= SYMBIOTIC_TASK_IDLE;
	return flags;
}

/* get_task_comm() takes a lock; a name that is being changed may come torn. */
static void symbiotic_task_comm(struct task_struct *task, char *comm)
{
	memcpy(comm, task->comm, SYMBIOTIC_TASK_COMM_LEN);
	comm[SYMBIOTIC_TASK_COMM_LEN - 1] = '\0';
}

/* SYMCALL_CURRENT_TASK */
int symbiotic_current_task(struct symbiotic_args *args)
{
	u64 comm[SYMBIOTIC_TASK_COMM_LEN / sizeof(u64)];

	symbiotic_task_comm(current, (char *)comm);
	args->bx = current->pid | (u64)current->tgid << 32;
	args->cx = smp_processor_id() | (u64)symbiotic_task_flags(current) << 32;
	args->dx = comm[0];
	args->si = comm[1];
	args->di = (unsigned long)current;
	return 0;
}

/*
 * Ticks tell user from system time, the scheduler measures the sum. The sum is
 * split as /proc does it, without its memory of what was said last time.
 */
static void symbiotic_task_time(struct task_struct *task, bool group, struct symbiotic_task *record)
{
	u64 user, system, run;

	if (group) {
		struct signal_struct *signal = task->signal;
		struct task_struct *thread;

		user = READ_ONCE(signal->utime);
		system = READ_ONCE(signal->stime);
		run = READ_ONCE(signal->sum_sched_runtime);
		for_each_thread(task, thread) {
			user += READ_ONCE(thread->utime);
			system += READ_ONCE(thread->stime);
			run += READ_ONCE(thread->se.sum_exec_runtime);
		}
	} else {
		user = READ_ONCE(task->utime);
		system = READ_ONCE(task->stime);
		run = READ_ONCE(task->se.sum_exec_runtime);
	}
	if (!system) {
		user = run;
	} else if (!user) {
		system = run;
	} else {
		system = mul_u64_u64_div_u64(system, run, system + user);
		user = run - system;
	}
	record->utime_ns = user;
	record->stime_ns = system;
}

/* A task keeps its mm for as long as its alloc_lock is held. */
static void symbiotic_task_memory(struct task_struct *task, struct symbiotic_task *record)
{
	struct mm_struct *mm;

	if (record->flags & SYMBIOTIC_TASK_KTHREAD)
		return;
	if (!spin_trylock(&task->alloc_lock)) {
		record->rss_bytes = SYMBIOTIC_UNKNOWN;
		record->swap_bytes = SYMBIOTIC_UNKNOWN;
		record->vsize_bytes = SYMBIOTIC_UNKNOWN;
		return;
	}
	mm = task->mm;
	if (mm) {
		record->rss_bytes = (u64)get_mm_rss(mm) << PAGE_SHIFT;
		record->swap_bytes = (u64)get_mm_counter(mm, MM_SWAPENTS) << PAGE_SHIFT;
		record->vsize_bytes = (u64)READ_ONCE(mm->total_vm) << PAGE_SHIFT;
	}
	spin_unlock(&task->alloc_lock);
}

static void symbiotic_task_record(struct task_struct *task, bool group,
				  struct symbiotic_task *record)
{
	memset(record, 0, sizeof(*record));
	record->pid = task->pid;
	record->tgid = task->tgid;
	record->ppid = pid_alive(task) ? rcu_dereference(task->real_parent)->tgid : 0;
	record->uid = from_kuid(&init_user_ns, task_uid(task));
	record->state = task_state_to_char(task);
	record->flags = symbiotic_task_flags(task);
	record->cpu = task_cpu(task);
	record->threads = get_nr_threads(task);
	record->start_ns = task->start_boottime;
	symbiotic_task_time(task, group, record);
	symbiotic_task_memory(task, record);
	symbiotic_task_comm(task, record->comm);
}

/*
 * SYMCALL_TASKS: BX is the first process ID to consider, CX has the flag for
 * threads. Returns in BX the records in the data area, which may be none, in
 * CX the next process ID to ask for, 0 at the end, in DX the size of a record.
 */
int symbiotic_tasks(struct symbiotic_args *args)
{
	const u32 limit = SYMBIOTIC_DATA_SIZE / sizeof(struct symbiotic_task);
	bool threads = args->cx & SYMBIOTIC_TASKS_THREADS;
	enum pid_type type = threads ? PIDTYPE_PID : PIDTYPE_TGID;
	struct symbiotic_task *records = args->data;
	u32 count = 0, next, seen;

	if (args->bx > PID_MAX_LIMIT || args->cx & ~(u64)SYMBIOTIC_TASKS_THREADS)
		return -EINVAL;
	next = args->bx;
	for (seen = 0; count < limit && seen < SYMBIOTIC_PIDS_PER_CALL; seen++) {
		struct pid *pid = find_ge_pid(next, &init_pid_ns);
		struct task_struct *task;

		if (!pid) {
			next = 0;
			break;
		}
		next = pid_nr(pid) + 1;
		task = pid_task(pid, type);
		if (task)
			symbiotic_task_record(task, !threads, &records[count++]);
	}
	args->bx = count;
	args->cx = next;
	args->dx = sizeof(*records);
	return 0;
}
