// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: while memory is short, pages of processes move to
 * the aperture before reclaim has to write them to a disk. The process with the
 * most goes first, and its addresses in order; all processes that have any come
 * once in a pass.
 */

#include <linux/jiffies.h>
#include <linux/math.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "internal.h"
#include "tier.h"

/* A process with less is left alone. */
#define SYMBIOTIC_LEAST		16UL

/* Bytes of a process that one turn goes over. */
#define SYMBIOTIC_STRETCH	(8UL << 20)

/* Stretches of one turn. */
#define SYMBIOTIC_STRETCHES	64

/* Processes of one pass. */
#define SYMBIOTIC_VISITS	64

/* Short is what is below one part in so many of the memory, and below so many pages. */
#define SYMBIOTIC_PART		16
#define SYMBIOTIC_MOST		(512UL << (20 - PAGE_SHIFT))

/**
 * struct symbiotic_pass - once over the processes
 * @visited: processes that had a turn already, by number
 * @nr_visited: how many
 * @mm: the process whose turn it is; NULL: none
 * @at: where it goes on
 * @moved: pages so far
 * @rest_until: no pass begins before
 */
struct symbiotic_pass {
	pid_t visited[SYMBIOTIC_VISITS];
	unsigned int nr_visited;
	struct mm_struct *mm;
	unsigned long at;
	unsigned long moved;
	unsigned long rest_until;
};

static struct symbiotic_pass symbiotic_pass;

/* Available memory below which pages move; they do until half as much more is there. */
unsigned long symbiotic_memory_mark(void)
{
	return min(totalram_pages() / SYMBIOTIC_PART, SYMBIOTIC_MOST);
}

/* Pages that should move now. */
unsigned long symbiotic_shortage(void)
{
	unsigned long mark = symbiotic_memory_mark();
	unsigned long available = max(si_mem_available(), 0L);

	return available < mark ? mark + mark / 2 - available : 0;
}

/* Pages that RAM has room for before memory is short again. */
unsigned long symbiotic_spare(void)
{
	unsigned long mark = symbiotic_memory_mark();
	unsigned long available = max(si_mem_available(), 0L);

	return available > mark ? available - mark : 0;
}

static bool symbiotic_was_visited(const struct symbiotic_pass *pass, pid_t pid)
{
	unsigned int i;

	for (i = 0; i < pass->nr_visited; i++) {
		if (pass->visited[i] == pid)
			return true;
	}
	return false;
}

static unsigned long symbiotic_anonymous(struct task_struct *task)
{
	unsigned long pages = 0;

	task_lock(task);
	if (task->mm && !(task->flags & PF_KTHREAD))
		pages = get_mm_counter(task->mm, MM_ANONPAGES);
	task_unlock(task);
	return pages;
}

/* The process with the most anonymous pages that had no turn in this pass; NULL if there is none. */
static struct task_struct *symbiotic_largest(const struct symbiotic_pass *pass)
{
	struct task_struct *task, *largest = NULL;
	unsigned long most = SYMBIOTIC_LEAST, pages;

	rcu_read_lock();
	for_each_process(task) {
		pages = symbiotic_anonymous(task);
		if (pages > most && !symbiotic_was_visited(pass, task->tgid)) {
			most = pages;
			largest = task;
		}
	}
	if (largest)
		get_task_struct(largest);
	rcu_read_unlock();
	return largest;
}

/* Gives the turn to the largest process that had none and has not ended meanwhile. */
static struct mm_struct *symbiotic_next(struct symbiotic_pass *pass)
{
	while (pass->nr_visited < SYMBIOTIC_VISITS) {
		struct task_struct *task = symbiotic_largest(pass);
		struct mm_struct *mm;

		if (!task)
			return NULL;
		pass->visited[pass->nr_visited++] = task->tgid;
		mm = get_task_mm(task);
		put_task_struct(task);
		if (!mm)
			continue;
		/* The pass keeps the structure, and does not keep the process's memory alive. */
		mmgrab(mm);
		mmput_async(mm);
		return mm;
	}
	return NULL;
}

static void symbiotic_pass_leave(struct symbiotic_pass *pass)
{
	if (pass->mm)
		mmdrop(pass->mm);
	pass->mm = NULL;
	pass->at = 0;
}

/* Moves some pages of the process whose turn it is: how many, or an error. The turn may end. */
static long symbiotic_pass_go_on(struct symbiotic_pass *pass)
{
	struct mm_struct *mm = pass->mm;
	unsigned long start;
	struct vm_area_struct *vma;
	long moved = 0;

	if (!mmget_not_zero(mm)) {
		symbiotic_pass_leave(pass);
		return 0;
	}
	/* A thread that changes the mappings holds the lock, and may be waiting for memory. */
	if (!mmap_read_trylock(mm)) {
		symbiotic_pass_leave(pass);
		mmput_async(mm);
		return 0;
	}
	vma = find_vma(mm, pass->at);
	if (vma) {
		start = max(pass->at, vma->vm_start);
		pass->at = min(start + SYMBIOTIC_STRETCH, vma->vm_end);
		moved = symbiotic_move_range(mm, start, pass->at, SYMBIOTIC_MOVE_AHEAD);
	}
	mmap_read_unlock(mm);
	if (!vma)
		symbiotic_pass_leave(pass);
	mmput_async(mm);
	return moved;
}

/* The end of a pass, or of room: another one that would find nothing has to wait. */
static void symbiotic_pass_end(struct symbiotic_pass *pass, bool rest)
{
	if (rest)
		pass->rest_until = jiffies + HZ;
	pass->nr_visited = 0;
	pass->moved = 0;
}

/**
 * symbiotic_relieve - move pages of processes to the aperture
 * @wanted: how many
 *
 * Return: false if there is nothing more to be had for now.
 */
bool symbiotic_relieve(unsigned long wanted)
{
	struct symbiotic_pass *pass = &symbiotic_pass;
	unsigned long done = 0;
	unsigned int i;
	long moved;

	if (time_before(jiffies, pass->rest_until))
		return false;
	for (i = 0; i < SYMBIOTIC_STRETCHES && done < wanted; i++) {
		if (!pass->mm)
			pass->mm = symbiotic_next(pass);
		if (!pass->mm) {
			symbiotic_pass_end(pass, pass->moved < SYMBIOTIC_BATCH);
			return false;
		}
		moved = symbiotic_pass_go_on(pass);
		if (moved < 0) {
			symbiotic_pass_end(pass, true);
			return false;
		}
		done += moved;
		pass->moved += moved;
		symbiotic_moved.ahead += moved;
		symbiotic_slots_drain();
		cond_resched();
	}
	return true;
}

void symbiotic_relieve_forget(void)
{
	symbiotic_pass_leave(&symbiotic_pass);
	symbiotic_pass_end(&symbiotic_pass, false);
}
