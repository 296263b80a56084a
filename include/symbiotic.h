/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR Apache-2.0) */
/*
 * Symbiotic virtualization: the interface between a guest kernel and the
 * virtual machine monitor (VMM) under it. Both are built with this one file, and
 * bare guests too; the marks of cffi are for the VMM's bindings.
 *
 * The CPUID leaf, MSRs 0x534 to 0x539 and 0x540, calls 1 and 10 and the codes
 * that end a call are those of the Palacios VMM. The rest extends it: MSRs 0x53a
 * and 0x53b, the data area, the calls from 0x100 on, and a port in place of the
 * VMMCALL instruction, which KVM keeps to itself.
 */
#ifndef _UAPI_LINUX_SYMBIOTIC_H
#define _UAPI_LINUX_SYMBIOTIC_H

#ifndef __ASSEMBLER__
#include <linux/types.h>
#endif

/* cffi: begin */
/* Discovery: EAX holds "V3V", ECX the version, EDX the features. */
#define SYMBIOTIC_CPUID_LEAF		0x90000000
#define SYMBIOTIC_CPUID_SIGNATURE	0x00563356	/* "V3V" */
#define SYMBIOTIC_VERSION		1
#define SYMBIOTIC_FEATURE_SYMSPY	(1 << 0)
#define SYMBIOTIC_FEATURE_SYMCALL	(1 << 1)
#define SYMBIOTIC_FEATURE_SWAPBYPASS	(1 << 2)

/* Guest-physical addresses of the shared pages; 0 withdraws a page. */
#define MSR_SYMBIOTIC_VM_PAGE		0x534
#define MSR_SYMBIOTIC_VCPU_PAGE		0x535
/* The state in which the VMM enters the guest for a symcall. */
#define MSR_SYMBIOTIC_RIP		0x536	/* 0: no entry point */
#define MSR_SYMBIOTIC_RSP		0x537
#define MSR_SYMBIOTIC_CS		0x538	/* SS is the next descriptor */
#define MSR_SYMBIOTIC_GS_BASE		0x539
#define MSR_SYMBIOTIC_CR3_CLEAR		0x53a	/* bits to clear in CR3 */
#define MSR_SYMBIOTIC_PROMISES		0x53b
#define MSR_SYMBIOTIC_FS_BASE		0x540	/* 0: leave it as it is */

/* Handlers leave x87, SSE and AVX state and all MSRs as they found them. */
#define SYMBIOTIC_PROMISE_NO_FPU	(1 << 0)

/* The doorbell: a 32-bit OUT of EAX to this port. */
#define SYMBIOTIC_PORT			0x7e
#define SYMBIOTIC_RETURN		0x535	/* end of a symcall */
#define SYMBIOTIC_ERROR			0x536	/* same; RBX is an errno */
#define SYMBIOTIC_HYPERCALL_FIRST	0x5000
#define SYMBIOTIC_ECHO			0x5000	/* SYMCALL_TEST with the arguments */
#define SYMBIOTIC_SWAP_ATTACH		0x5001	/* base, size: as announced; flags */
#define SYMBIOTIC_SWAP_DETACH		0x5002
#define SYMBIOTIC_SWAP_MAP		0x5003	/* address, slot, old entry, new one */
#define SYMBIOTIC_SWAP_DISCARD		0x5004	/* slot, count */
#define SYMBIOTIC_SWAP_MOVE		0x5005	/* pages, SYMBIOTIC_MOVE_* */
#define SYMBIOTIC_HYPERCALL_USER_FIRST	0x6000	/* for other kernel code */
#define SYMBIOTIC_HYPERCALL_LAST	0xffff
/* What EAX is after a hypercall. */
#define SYMBIOTIC_HYPERCALL_DONE	0
#define SYMBIOTIC_HYPERCALL_UNKNOWN	1
#define SYMBIOTIC_HYPERCALL_REFUSED	2

#define SYMBIOTIC_PAGE_SIZE		4096
#define SYMBIOTIC_EXT_VERSION		1
#define SYMBIOTIC_FLAGS_OFFSET		0x008
#define SYMBIOTIC_DATA_OFFSET		0x400
#define SYMBIOTIC_DATA_SIZE		0xc00

#define SYMBIOTIC_VCPU_ACTIVE		(1 << 0)	/* by the VMM */
#define SYMBIOTIC_VCPU_ENABLED		(1 << 1)	/* by the guest */

/* Symcalls. Arguments and results are in RBX, RCX, RDX, RSI and RDI. */
#define SYMCALL_TEST			1
#define SYMCALL_MEM_LOOKUP		10
#define SYMCALL_KERNEL_FACTS		0x100
#define SYMCALL_CURRENT_TASK		0x101
#define SYMCALL_TASKS			0x102
#define SYMCALL_MEMORY			0x103
#define SYMCALL_READ			0x104
#define SYMCALL_SWAP_STATS		0x105
#define SYMCALL_SWAP_EVICT		0x106
/* For calls that other kernel code registers. */
#define SYMCALL_USER_FIRST		0x1000
#define SYMCALL_USER_LAST		0xffff

/* The errno of a symcall that nobody registered. */
#define SYMBIOTIC_NO_CALL		38

/* SYMCALL_MEM_LOOKUP */
#define SYMBIOTIC_ACCESS_READ		(1 << 0)
#define SYMBIOTIC_ACCESS_WRITE		(1 << 1)
#define SYMBIOTIC_ACCESS_EXECUTE	(1 << 2)

/* SYMCALL_KERNEL_FACTS */
#define SYMBIOTIC_FACTS_MODULE		(1 << 0)	/* not built in */

/* SYMCALL_CURRENT_TASK and SYMCALL_TASKS */
#define SYMBIOTIC_TASK_KTHREAD		(1 << 0)
#define SYMBIOTIC_TASK_EXITING		(1 << 1)
#define SYMBIOTIC_TASK_IDLE		(1 << 2)
#define SYMBIOTIC_TASK_COMM_LEN		16

#define SYMBIOTIC_TASKS_THREADS		(1 << 0)

/* How faults on the swap disk are handled: @swap_mode of the VM's page. */
#define SYMBIOTIC_SWAP_OFF		0	/* as on any disk */
#define SYMBIOTIC_SWAP_SYMCALL		1	/* SYMBIOTIC_SWAP_MAP for each */
#define SYMBIOTIC_SWAP_DIRECT		2	/* without asking */

/* SYMBIOTIC_SWAP_ATTACH: its flags, and what RBX is after it was refused. */
#define SYMBIOTIC_SWAP_AS_TIER		(1 << 0)	/* pages move there; it is no disk */
#define SYMBIOTIC_SWAP_HOLDS_DATA	1	/* what the disk wrote would be lost */

/* SYMBIOTIC_SWAP_DISCARD: slots of one call. */
#define SYMBIOTIC_SWAP_DISCARD_SLOTS	8192

/* SYMBIOTIC_SWAP_MOVE: why pages are to move; RBX is how many may, afterwards. */
#define SYMBIOTIC_MOVE_AHEAD		1	/* of reclaim: memory is short */
#define SYMBIOTIC_MOVE_BEHIND		2	/* what was swapped in */

/* SYMBIOTIC_SWAP_MAP: what RBX is afterwards. */
#define SYMBIOTIC_SWAP_MAPPED		0
#define SYMBIOTIC_SWAP_BAD_MODE		1	/* off, or not attached */
#define SYMBIOTIC_SWAP_BAD_SLOT		2	/* there is none, or it is empty */
#define SYMBIOTIC_SWAP_BAD_POLICY	3	/* the VMM would rather not */
#define SYMBIOTIC_SWAP_BAD_LOOKUP	4	/* no answer, or one that does not fit */
#define SYMBIOTIC_SWAP_BAD_PTE		5	/* no such entry can be */
#define SYMBIOTIC_SWAP_BAD_RACE		6	/* another entry was there by then */
#define SYMBIOTIC_SWAP_REASONS		8	/* all are below this */

/* SYMCALL_SWAP_STATS */
#define SYMBIOTIC_SWAP_ATTACHED		(1 << 0)	/* the aperture is mapped */
#define SYMBIOTIC_SWAP_ON		(1 << 1)	/* a swap area is on it */
#define SYMBIOTIC_SWAP_EVICTING		(1 << 2)
#define SYMBIOTIC_SWAP_TIER		(1 << 3)	/* pages move there */

/* cffi: end */

#ifndef __ASSEMBLER__
/* cffi: begin */

/* A value that the guest cannot tell. */
#define SYMBIOTIC_UNKNOWN		(~(__u64)0)

/**
 * struct symbiotic_vm_page - the page that the VM has once
 * @magic: "V3V", written by the VMM
 * @flags: written by the VMM
 * @pci_map: one bit for each PCI function that is passed through
 * @ext_size: bytes of the extension, from here on
 * @ext_version: version of the extension
 * @swap_mode: how the swap disk may be bypassed; 0: not at all
 * @aperture_base: guest-physical address of the swap disk's contents
 * @aperture_size: bytes of it
 * @swap_serial: serial number of the swap disk
 * @aperture_room: bytes right below @aperture_base that the guest may use
 */
struct symbiotic_vm_page {
	__u64 magic;
	__u32 flags;
	__u8 pci_map[128];
	__u8 reserved0[116];
	__u32 ext_size;
	__u32 ext_version;
	__u32 swap_mode;
	__u32 reserved1;
	__u64 aperture_base;
	__u64 aperture_size;
	__u8 swap_serial[20];
	__u32 reserved2;
	__u64 aperture_room;
	__u8 reserved3[3776];
};

/**
 * struct symbiotic_vcpu_page - the page that each vCPU has
 * @magic: "V3V." and the number of the vCPU, written by the VMM
 * @flags: SYMBIOTIC_VCPU_*
 * @ext_size: bytes of the extension, from here to @data_size included
 * @ext_version: version of the extension
 * @data_offset: where in this page the data area is
 * @data_size: bytes of the data area
 * @data: input and output of calls that need more than five registers
 */
struct symbiotic_vcpu_page {
	__u64 magic;
	__u32 flags;
	__u8 reserved0[244];
	__u32 ext_size;
	__u32 ext_version;
	__u32 data_offset;
	__u32 data_size;
	__u8 reserved1[752];
	__u8 data[SYMBIOTIC_DATA_SIZE];
};

/* SYMCALL_KERNEL_FACTS */
struct symbiotic_facts {
	__u32 size;
	__u32 flags;
	__u64 kaslr_offset;
	__u64 phys_base;
	__u64 page_offset;
	__u64 vmcoreinfo_gpa;	/* of the ELF note, name and header included */
	__u32 vmcoreinfo_size;
	__u32 possible_cpus;
	__u64 percpu_base;
	__u32 cpu;
	__u32 page_table_levels;
	__u64 kernel_pgd_gpa;
	char release[64];
	char version[64];
};

/* SYMCALL_TASKS */
struct symbiotic_task {
	__u32 pid;
	__u32 tgid;
	__u32 ppid;
	__u32 uid;
	char state;
	__u8 reserved[3];
	__u32 flags;
	__u32 cpu;
	__u32 threads;
	__u64 start_ns;
	__u64 utime_ns;
	__u64 stime_ns;
	__u64 rss_bytes;	/* these three may be SYMBIOTIC_UNKNOWN */
	__u64 swap_bytes;
	__u64 vsize_bytes;
	char comm[SYMBIOTIC_TASK_COMM_LEN];
};

/* SYMCALL_MEMORY */
struct symbiotic_memory {
	__u32 size;
	__u32 page_size;
	/* Bytes */
	__u64 total;
	__u64 free;
	__u64 available;
	__u64 cached;		/* page cache, block devices included */
	__u64 anonymous;
	__u64 slab;
	__u64 dirty;
	__u64 swap_total;
	__u64 swap_free;
	__u64 swap_cached;
	/* Events since boot */
	__u64 pswpin;
	__u64 pswpout;
	__u64 pgfault;
	__u64 pgmajfault;
};

/* SYMCALL_SWAP_STATS */
struct symbiotic_swap_stats {
	__u32 size;
	__u32 flags;		/* SYMBIOTIC_SWAP_ATTACHED and so on */
	__u64 slots;
	__u64 used;		/* by the guest, adopted ones included */
	__u64 adopted;		/* now */
	/* Events since boot */
	__u64 offered;		/* faults on pages of the disk */
	__u64 adopted_total;
	__u64 mapped_by_vmm;
	__u64 refused_shared;
	__u64 refused_mode;
	__u64 refused_vmm;
	__u64 refused_reasons[SYMBIOTIC_SWAP_REASONS];	/* [0]: not asked */
	__u64 lost_races;
	__u64 freed;
	__u64 evicted;
	__u64 evict_failed;
	__u64 pages_out;	/* copied to the disk's memory */
	__u64 pages_in;
	__u64 zero_filled;
	/* Of a tier */
	__u64 moved_ahead;	/* while memory was short */
	__u64 moved_behind;	/* after they were swapped in */
	__u64 move_failed;
	__u64 follow_missed;	/* swap-ins */
	__u64 discarded;	/* slots */
	__u64 mover_ns;		/* time that moving took */
};

/* cffi: end */
#endif /* __ASSEMBLER__ */

#endif /* _UAPI_LINUX_SYMBIOTIC_H */
