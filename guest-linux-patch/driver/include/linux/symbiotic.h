/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Symbiotic virtualization: what the rest of the kernel can use.
 */
#ifndef _LINUX_SYMBIOTIC_H
#define _LINUX_SYMBIOTIC_H

#include <linux/errno.h>
#include <linux/module.h>
#include <linux/types.h>
#include <uapi/linux/symbiotic.h>

/**
 * struct symbiotic_args - arguments of a call, and its results
 * @bx: first register
 * @cx: second register
 * @dx: third register
 * @si: fourth register
 * @di: fifth register
 * @data: data area of this CPU, SYMBIOTIC_DATA_SIZE bytes; NULL in hypercalls
 */
struct symbiotic_args {
	u64 bx;
	u64 cx;
	u64 dx;
	u64 si;
	u64 di;
	void *data;
};

/*
 * A handler runs as an NMI handler does: it interrupts anything, with any
 * lock held. It must not sleep, may take locks by trylock only, and must not
 * use the FPU. What it leaves in @args goes back to the VMM. Returns 0, or a
 * negative errno, which the VMM gets instead of the results.
 */
typedef int (*symbiotic_call_fn)(struct symbiotic_args *args);

#ifdef CONFIG_SYMBIOTIC

int __symbiotic_register_call(u32 number, symbiotic_call_fn fn,
			      struct module *owner);
void symbiotic_unregister_call(u32 number);
bool symbiotic_present(void);
int symbiotic_hypercall(u32 number, struct symbiotic_args *args);

#else

static inline int __symbiotic_register_call(u32 number, symbiotic_call_fn fn,
					    struct module *owner)
{
	return -ENODEV;
}

static inline void symbiotic_unregister_call(u32 number)
{
}

static inline bool symbiotic_present(void)
{
	return false;
}

static inline int symbiotic_hypercall(u32 number, struct symbiotic_args *args)
{
	return -ENODEV;
}

#endif /* CONFIG_SYMBIOTIC */

/**
 * symbiotic_register_call - offer a symcall to the VMM
 * @number: SYMCALL_USER_FIRST to SYMCALL_USER_LAST
 * @fn: its handler
 *
 * May sleep. The handler may run before this returns. A module unregisters
 * its calls before it goes.
 *
 * Return: 0, -EINVAL for a number out of range, -EEXIST for one that is taken,
 * -ENOMEM, or -ENODEV for a kernel without CONFIG_SYMBIOTIC.
 */
#define symbiotic_register_call(number, fn) \
	__symbiotic_register_call(number, fn, THIS_MODULE)

#endif /* _LINUX_SYMBIOTIC_H */
