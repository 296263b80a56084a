// SPDX-License-Identifier: GPL-2.0
/* A symcall whose handler breaks the first rule: it does not come to an end. */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/processor.h>
#include <linux/symbiotic.h>

enum { CALL_SPIN = 0x1001 };

static int spin(struct symbiotic_args *args)
{
	for (;;)
		cpu_relax();
	return 0;
}

static int __init spin_init(void)
{
	return symbiotic_register_call(CALL_SPIN, spin);
}

/* To be removed as long as nobody has made the call. */
static void __exit spin_exit(void)
{
	symbiotic_unregister_call(CALL_SPIN);
}

module_init(spin_init);
module_exit(spin_exit);
MODULE_DESCRIPTION("A symcall that never ends");
MODULE_LICENSE("GPL");
