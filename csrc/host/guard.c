/* SPDX-License-Identifier: Apache-2.0 */
#include "host/guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

/* Where the thread goes on after a fault; NULL while it is at nothing that may fault. Of the
 * initial model: the handler must not have to allocate it. */
static __thread sigjmp_buf *volatile way_out __attribute__((tls_model("initial-exec")));
static __thread bool prepared;

static pthread_mutex_t setup_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static bool armed; /* atomic */

/* As the kernel would have done without us: the access is made again, or the signal comes again. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(number, info, context);
	} else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(number);
	} else if (info->si_code > 0 || before.sa_handler == SIG_DFL) {
		struct sigaction action = {.sa_handler = SIG_DFL};

		sigaction(number, &action, NULL);
		if (info->si_code <= 0)
			raise(number);
	}
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	/* Positive: a fault of this thread's own, and not a signal that somebody sent. */
	if (info->si_code > 0 && way_out)
		siglongjmp(*way_out, 1);
	pass_on(number, info, context);
}

int guard_setup(void)
{
	struct sigaction action = {
	        .sa_sigaction = on_bus_error,
	        /* Left by a jump, so that it must not be blocked when it is. */
	        .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK,
	};
	struct sigaction found;
	int ret = 0;

	sigemptyset(&action.sa_mask);
	pthread_mutex_lock(&setup_lock);
	if (sigaction(SIGBUS, NULL, &found)) {
		ret = -errno;
	} else if (!(found.sa_flags & SA_SIGINFO) || found.sa_sigaction != on_bus_error) {
		before = found;
		ret = sigaction(SIGBUS, &action, NULL) ? -errno : 0;
	}
	if (!ret)
		__atomic_store_n(&armed, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&setup_lock);
	return ret;
}

/* Threads of devices block all signals; a fault whose signal is blocked ends the process. */
static void prepare(void)
{
	sigset_t fault;

	sigemptyset(&fault);
	sigaddset(&fault, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &fault, NULL);
	prepared = true;
}

/* Not to be inlined: what is in registers is lost with a fault. */
static __attribute__((noinline)) bool guarded(void *to, const void *from, size_t bytes)
{
	sigjmp_buf here;

	if (!prepared)
		prepare();
	if (sigsetjmp(here, 0)) {
		way_out = NULL;
		return false;
	}
	way_out = &here;
	/* The compiler, too, is to copy between the two. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	memmove(to, from, bytes);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	way_out = NULL;
	return true;
}

bool guard_copy(void *to, const void *from, size_t bytes)
{
	if (__atomic_load_n(&armed, __ATOMIC_RELAXED))
		return !bytes || guarded(to, from, bytes);
	if (bytes)
		memmove(to, from, bytes);
	return true;
}
