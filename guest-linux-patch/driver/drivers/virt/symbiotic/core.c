// SPDX-License-Identifier: GPL-2.0
/*
 * Symbiotic virtualization: finds the interface, and registers a page and a
 * stack for each CPU with the VMM.
 */

#define pr_fmt(fmt) "symbiotic: " fmt

#include <linux/build_bug.h>
#include <linux/cc_platform.h>
#include <linux/cpu.h>
#include <linux/cpufeature.h>
#include <linux/cpuhotplug.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/processor.h>
#include <linux/reboot.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/suspend.h>
#include <linux/vmalloc.h>
#include <asm/msr.h>
#include <asm/segment.h>

#include "compat.h"
#include "internal.h"
#include "reach.h"

static_assert(sizeof(struct symbiotic_vm_page) == SYMBIOTIC_PAGE_SIZE);
static_assert(offsetof(struct symbiotic_vm_page, ext_size) == 0x100);
static_assert(offsetof(struct symbiotic_vm_page, swap_serial) == 0x120);
static_assert(offsetof(struct symbiotic_vm_page, aperture_room) == 0x138);
static_assert(sizeof(struct symbiotic_vcpu_page) == SYMBIOTIC_PAGE_SIZE);
static_assert(offsetof(struct symbiotic_vcpu_page, flags) == SYMBIOTIC_FLAGS_OFFSET);
static_assert(offsetof(struct symbiotic_vcpu_page, ext_size) == 0x100);
static_assert(offsetof(struct symbiotic_vcpu_page, data) == SYMBIOTIC_DATA_OFFSET);
static_assert(SYMBIOTIC_PAGE_SIZE == PAGE_SIZE);

DEFINE_PER_CPU(struct symbiotic_cpu, symbiotic_cpus);

static struct symbiotic_vm_page *symbiotic_vm_page;
static enum cpuhp_state symbiotic_hotplug;
static bool symbiotic_found __ro_after_init;
static bool symbiotic_off __initdata;

static int __init __maybe_unused symbiotic_parameter(char *value)
{
	if (strcmp(value, "off"))
		return 0;
	symbiotic_off = true;
	return 1;
}
__setup("symbiotic=", symbiotic_parameter);

/* With a guard page where the kernel's own stacks have one. */
static void *symbiotic_alloc_stack(void)
{
	if (IS_ENABLED(CONFIG_VMAP_STACK))
		return vzalloc(THREAD_SIZE);
	return (void *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, THREAD_SIZE_ORDER);
}

static void symbiotic_free_stack(void *stack)
{
	if (is_vmalloc_addr(stack))
		vfree(stack);
	else
		free_pages((unsigned long)stack, THREAD_SIZE_ORDER);
}

/* Page-table isolation: what tells the user's CR3 from the kernel's. */
static u64 symbiotic_cr3_clear(void)
{
	if (!boot_cpu_has(X86_FEATURE_PTI))
		return 0;
	return BIT_ULL(PTI_PGTABLE_SWITCH_BIT) | BIT_ULL(X86_CR3_PTI_PCID_USER_BIT);
}

/* Runs on the CPU that it registers. The entry point comes last. */
static int symbiotic_write_msrs(struct symbiotic_cpu *cpu)
{
	const struct {
		u32 msr;
		u64 value;
	} registers[] = {
		{ MSR_SYMBIOTIC_VCPU_PAGE, __pa(cpu->page) },
		{ MSR_SYMBIOTIC_RSP, (unsigned long)cpu->stack + THREAD_SIZE },
		{ MSR_SYMBIOTIC_CS, __KERNEL_CS },
		{ MSR_SYMBIOTIC_GS_BASE, __rdmsr(MSR_GS_BASE) },
		{ MSR_SYMBIOTIC_FS_BASE, 0 },
		{ MSR_SYMBIOTIC_CR3_CLEAR, symbiotic_cr3_clear() },
		{ MSR_SYMBIOTIC_PROMISES, SYMBIOTIC_PROMISE_NO_FPU },
		{ MSR_SYMBIOTIC_RIP, (unsigned long)symbiotic_entry },
	};
	int i, error;

	for (i = 0; i < ARRAY_SIZE(registers); i++) {
		error = wrmsrq_safe(registers[i].msr, registers[i].value);
		if (error)
			return error;
	}
	return 0;
}

static void symbiotic_enable(struct symbiotic_cpu *cpu)
{
	symbiotic_announce_stack(cpu->stack + THREAD_SIZE);
	WRITE_ONCE(cpu->page->flags, READ_ONCE(cpu->page->flags) | SYMBIOTIC_VCPU_ENABLED);
}

/*
 * Runs on the CPU that it withdraws: no symcall is under way there. Returns an
 * error if the VMM may still use the page and the stack.
 */
static int symbiotic_withdraw(struct symbiotic_cpu *cpu)
{
	int error;

	WRITE_ONCE(cpu->page->flags, READ_ONCE(cpu->page->flags) & ~SYMBIOTIC_VCPU_ENABLED);
	error = wrmsrq_safe(MSR_SYMBIOTIC_RIP, 0);
	if (!error)
		symbiotic_announce_stack(NULL);
	return wrmsrq_safe(MSR_SYMBIOTIC_VCPU_PAGE, 0) ?: error;
}

static void symbiotic_free_cpu(struct symbiotic_cpu *cpu)
{
	free_page((unsigned long)cpu->page);
	symbiotic_free_stack(cpu->stack);
	cpu->page = NULL;
	cpu->stack = NULL;
}

/* A CPU that cannot be registered works as it would without a VMM. */
static int symbiotic_cpu_online(unsigned int number)
{
	struct symbiotic_cpu *cpu = per_cpu_ptr(&symbiotic_cpus, number);
	int error = -ENOMEM;

	init_irq_work(&cpu->unlock, symbiotic_mmap_unlock);
	cpu->page = (void *)get_zeroed_page(GFP_KERNEL);
	cpu->stack = symbiotic_alloc_stack();
	if (!cpu->page || !cpu->stack)
		goto failed;
	error = symbiotic_write_msrs(cpu);
	if (!error) {
		symbiotic_enable(cpu);
		return 0;
	}
	if (symbiotic_withdraw(cpu)) {
		/* The memory stays where it is, since the VMM may know of it. */
		cpu->page = NULL;
		cpu->stack = NULL;
	}
failed:
	if (cpu->page || cpu->stack)
		symbiotic_free_cpu(cpu);
	pr_warn_once("CPU %u is not registered: error %d\n", number, error);
	return 0;
}

static int symbiotic_cpu_offline(unsigned int number)
{
	struct symbiotic_cpu *cpu = per_cpu_ptr(&symbiotic_cpus, number);

	if (!cpu->page)
		return 0;
	irq_work_sync(&cpu->unlock);
	if (!symbiotic_withdraw(cpu))
		symbiotic_free_cpu(cpu);
	cpu->page = NULL;
	return 0;
}

static void symbiotic_withdraw_here(void *unused)
{
	struct symbiotic_cpu *cpu = this_cpu_ptr(&symbiotic_cpus);

	if (cpu->page)
		symbiotic_withdraw(cpu);
}

static void symbiotic_register_here(void *unused)
{
	struct symbiotic_cpu *cpu = this_cpu_ptr(&symbiotic_cpus);

	if (cpu->page && !symbiotic_write_msrs(cpu))
		symbiotic_enable(cpu);
}

/* Another kernel may be started in this one's place: it knows of nothing. */
static int symbiotic_reboot(struct notifier_block *block, unsigned long event, void *unused)
{
	symbiotic_swap_detach();
	on_each_cpu(symbiotic_withdraw_here, NULL, true);
	wrmsrq_safe(MSR_SYMBIOTIC_VM_PAGE, 0);
	return NOTIFY_DONE;
}

/* The MSRs do not outlive a suspend, nor does the VMM have to be the same. */
static int symbiotic_suspend(struct notifier_block *block, unsigned long event, void *unused)
{
	int error;

	switch (event) {
	case PM_HIBERNATION_PREPARE:
		error = symbiotic_swap_freeze();
		if (error)
			return notifier_from_errno(error);
		fallthrough;
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		symbiotic_reboot(NULL, 0, NULL);
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		wrmsrq_safe(MSR_SYMBIOTIC_VM_PAGE, __pa(symbiotic_vm_page));
		on_each_cpu(symbiotic_register_here, NULL, true);
		symbiotic_swap_attach();
		symbiotic_swap_thaw();
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block symbiotic_reboot_block = {
	.notifier_call = symbiotic_reboot,
};

static struct notifier_block symbiotic_suspend_block = {
	.notifier_call = symbiotic_suspend,
};

static bool __init symbiotic_detect(void)
{
	const u32 wanted = SYMBIOTIC_FEATURE_SYMSPY | SYMBIOTIC_FEATURE_SYMCALL;
	u32 eax, ebx, ecx, edx;

	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return false;
	cpuid(SYMBIOTIC_CPUID_LEAF, &eax, &ebx, &ecx, &edx);
	if (eax != SYMBIOTIC_CPUID_SIGNATURE || ecx < SYMBIOTIC_VERSION ||
	    (edx & wanted) != wanted)
		return false;
	/* A VMM that is not to see the guest's memory cannot share pages with it. */
	if (!cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return true;
	pr_info("not used: the guest's memory is encrypted\n");
	return false;
}

static int __init symbiotic_start(void)
{
	int error;

	symbiotic_vm_page = (void *)get_zeroed_page(GFP_KERNEL);
	if (!symbiotic_vm_page)
		return -ENOMEM;
	error = wrmsrq_safe(MSR_SYMBIOTIC_VM_PAGE, __pa(symbiotic_vm_page));
	if (error)
		goto free_page;
	error = symbiotic_add_calls();
	if (error)
		goto withdraw_page;
	error = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "virt/symbiotic:online",
				  symbiotic_cpu_online, symbiotic_cpu_offline);
	if (error < 0)
		goto remove_calls;
	symbiotic_hotplug = error;
	return 0;

remove_calls:
	symbiotic_remove_calls();
withdraw_page:
	wrmsrq_safe(MSR_SYMBIOTIC_VM_PAGE, 0);
free_page:
	free_page((unsigned long)symbiotic_vm_page);
	return error;
}

static int __init symbiotic_init(void)
{
	int error;

	if (symbiotic_off || !symbiotic_detect())
		return -ENODEV;
	error = symbiotic_start();
	if (error) {
		pr_warn("not used: error %d\n", error);
		return error;
	}
	register_reboot_notifier(&symbiotic_reboot_block);
	register_pm_notifier(&symbiotic_suspend_block);
	symbiotic_found = true;
	symbiotic_swap_init(symbiotic_vm_page);
	symbiotic_debugfs_init();
	return 0;
}

static void __exit symbiotic_exit(void)
{
	symbiotic_swap_exit();
	symbiotic_debugfs_exit();
	unregister_pm_notifier(&symbiotic_suspend_block);
	unregister_reboot_notifier(&symbiotic_reboot_block);
	cpuhp_remove_state(symbiotic_hotplug);
	symbiotic_remove_calls();
	if (!wrmsrq_safe(MSR_SYMBIOTIC_VM_PAGE, 0))
		free_page((unsigned long)symbiotic_vm_page);
}

module_init(symbiotic_init);
module_exit(symbiotic_exit);

/**
 * symbiotic_present - whether a symbiotic VMM was found
 *
 * Return: true from the driver's initialisation on, if there is one.
 */
bool symbiotic_present(void)
{
	return symbiotic_found;
}
EXPORT_SYMBOL_GPL(symbiotic_present);

/**
 * symbiotic_hypercall - call the VMM
 * @number: SYMBIOTIC_HYPERCALL_FIRST or above
 * @args: arguments, replaced by the results if there are any
 *
 * From any context, symcall handlers included.
 *
 * Return: 0, -ENODEV without a symbiotic VMM, -EINVAL for a number that is too
 * low, -EOPNOTSUPP for one that the VMM does not know, -EPERM if it refused.
 */
int symbiotic_hypercall(u32 number, struct symbiotic_args *args)
{
	unsigned long ax = number;

	if (!symbiotic_found)
		return -ENODEV;
	if (number < SYMBIOTIC_HYPERCALL_FIRST)
		return -EINVAL;
	asm volatile("outl %%eax, %[port]"
		     : "+a" (ax), "+b" (args->bx), "+c" (args->cx),
		       "+d" (args->dx), "+S" (args->si), "+D" (args->di)
		     : [port] "N" (SYMBIOTIC_PORT)
		     : "memory");
	switch (ax) {
	case SYMBIOTIC_HYPERCALL_DONE:
		return 0;
	case SYMBIOTIC_HYPERCALL_REFUSED:
		return -EPERM;
	default:
		return -EOPNOTSUPP;
	}
}
EXPORT_SYMBOL_GPL(symbiotic_hypercall);

MODULE_DESCRIPTION("Symbiotic virtualization guest support");
MODULE_LICENSE("GPL");
