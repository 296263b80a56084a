/* SPDX-License-Identifier: Apache-2.0 */
/* The guest that keeps all its state under check while it is upcalled: what its parts share. */
#ifndef TESTS_INTEGRITY_H
#define TESTS_INTEGRITY_H

#include "guest.h"

enum {
	RAX,
	RCX,
	RDX,
	RBX,
	RSP,
	RBP,
	RSI,
	RDI,
	R8,
	R15 = 15,
	GENERAL,

	CF_TO_SF = 0xd5, /* CF PF AF ZF SF */
	FLAG_IF = 1 << 9,
	FLAG_DF = 1 << 10,
	FLAG_OF = 1 << 11,
	FLAG_IOPL = 3 << 12,
	FLAG_AC = 1 << 18,
	FLAG_ID = 1 << 21,

	CR0_MP = 1 << 1,
	CR0_TS = 1 << 3,
	CR0_AM = 1 << 18,
	CR4_TSD = 1 << 2,
	CR4_DE = 1 << 3,
	CR4_PCE = 1 << 8,
	EFER_SCE = 1 << 0,

	/* Devices of the tests, for the guest proper and, one `step` further, for its symcall
	   handler. */
	DEVICE_PORT = 0x5c0,
	DEVICE_PORT_STEP = 0x10,
	DEVICE_MMIO_STEP = 0x2000,
	DEVICE_MSR = 0x12340,
	DEVICE_MSR_STEP = 1,

	/* Kinds of access, bit 2: a write. */
	ACCESS_PORT = 0,
	ACCESS_MMIO = 1,
	ACCESS_MSR = 2,
	ACCESS_WRITE = 4,

	/* What a symcall of a number from UPCALL_FIRST on does, a bit each. */
	UPCALL_FIRST = 0x1000,
	UPCALL_VECTORS = 1 << 0,
	UPCALL_EXCURSION = 1 << 1,
	UPCALL_PORT = 1 << 2,
	UPCALL_MMIO = 1 << 3,
	UPCALL_MSR = 1 << 4,
	UPCALL_SEGMENTS = 1 << 5,
	UPCALL_CR2 = 1 << 6,
	UPCALL_NMI = 1 << 7,
	UPCALL_DATA = 1 << 8,
	UPCALL_CONTROL = 1 << 9,
	UPCALL_FAIL = 1 << 10,
	UPCALL_SPIN = 1 << 11, /* for ever */

	/* What went wrong: the first word of `failure`. */
	FAILED_GENERAL = 1,
	FAILED_VECTORS,
	FAILED_UPPER, /* of YMM and beyond, after a time at CPL 0 */
	FAILED_SYSTEM,
	FAILED_BASE, /* FS or GS as CPL 3 sees it */
	FAILED_BUFFER,
	FAILED_INTERRUPTS,
	FAILED_SHADOW,
	FAILED_NMI,
	FAILED_ENTRY, /* of a symcall */
	FAILED_DEVICE,
	FAILED_TRAP,
	FAILED_CR3,

	REPORT_FAILED = 1,
	REPORT_ENDED,
	REPORT_READY,
};

static const u64 DEVICE_MMIO = 0xd0100000; /* two pages */

struct registers {
	u64 general[GENERAL], rflags;
};

/* window.S */
extern struct registers window_set, window_got, entry;
extern u64 window_op, excursion_stack, rubbish, rubbish_flags, ending;
extern u64 vectors_mask; /* of XRSTOR; 0 for FXRSTOR */
extern u8 vectors_set[4096], vectors_got[4096], vectors_lost[4096];
extern char window_end[], excursion_leave[], excursion_end[], symcall_entry[], handler_stack_top[];
void window(void);
void excursion(void);

/* integrity.c */
extern volatile u64 promise;
extern u64 cookies[2][64], entry_bases[2];
void fail(u64 what, u64 which, u64 expected, u64 got) __attribute__((noreturn));

/* events.c */
extern volatile u64 nmi_sent, nmi_seen, in_nmi, interrupts;
void send_nmi(void);
void set_cr8(u64 value);

/* vectors.c */
extern u64 upper_mask;
void random_vectors(u8 *image, unsigned size);

/* upcall.c */
extern volatile u64 inside, spinning;

/* The next value of a device: both sides know the sequence, and so each lost or doubled access. */
static inline u64 device_value(u64 *sequence, u64 kind, u64 address, u64 size)
{
	u64 value = mix((*sequence)++ ^ address << 24 ^ size << 56 ^ kind << 60);

	return size == 8 ? value : value & ((1ULL << size * 8) - 1);
}

#endif
