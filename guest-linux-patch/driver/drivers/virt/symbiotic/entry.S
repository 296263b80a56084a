/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where the VMM enters the kernel for a symcall.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/frame.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/ptrace-abi.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>
#include <uapi/linux/symbiotic.h>

#include "compat.h"

/* Before Linux 6.4 it had another name. */
#ifndef UNWIND_HINT_TYPE_END_OF_STACK
#define UNWIND_HINT_END_OF_STACK	UNWIND_HINT_EMPTY
#endif

	.section .entry.text, "ax"

/*
 * RAX is the number of the call; RBX, RCX, RDX, RSI and RDI are its arguments.
 * Everything else is zero, interrupts are off, CS, SS, GS base and RSP are
 * what core.c has registered, CR3 is the kernel's. The VMM keeps the whole
 * context that it interrupted, so there is nothing to save here; the frame is
 * for the C code, for the unwinders, and for whoever reads a crash.
 *
 * The VMM does not come back to what follows the OUT.
 */
SYM_CODE_START(symbiotic_entry)
	UNWIND_HINT_END_OF_STACK
	ENDBR

	/* struct pt_regs: as if this instruction was interrupted */
	movq	%rsp, %rbp
	pushq	$__KERNEL_DS		/* ss */
	pushq	%rbp			/* sp */
	pushfq				/* flags */
	pushq	$__KERNEL_CS		/* cs */
	leaq	symbiotic_entry(%rip), %rbp
	pushq	%rbp			/* ip */
	pushq	%rax			/* orig_ax */
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	xorl	%ebp, %ebp
	pushq	%rbp			/* r8 */
	pushq	%rbp			/* r9 */
	pushq	%rbp			/* r10 */
	pushq	%rbp			/* r11 */
	pushq	%rbx
	pushq	%rbp			/* bp */
	pushq	%rbp			/* r12 */
	pushq	%rbp			/* r13 */
	pushq	%rbp			/* r14 */
	pushq	%rbp			/* r15 */
	UNWIND_HINT_REGS
	ENCODE_FRAME_POINTER

	/* It may have been user space that was interrupted. */
	UNTRAIN_RET

	movq	%rsp, %rdi
	call	symbiotic_symcall

	movq	RAX(%rsp), %rax
	movq	RBX(%rsp), %rbx
	movq	RCX(%rsp), %rcx
	movq	RDX(%rsp), %rdx
	movq	RSI(%rsp), %rsi
	movq	RDI(%rsp), %rdi
	outl	%eax, $SYMBIOTIC_PORT
	ud2
SYM_CODE_END(symbiotic_entry)

#ifdef SYMBIOTIC_OWN_IBPB
/* As the kernel's, it changes AX, CX and DX. */
SYM_FUNC_START_LOCAL(write_ibpb)
	movl	$MSR_IA32_PRED_CMD, %ecx
	movl	$PRED_CMD_IBPB, %eax
	xorl	%edx, %edx
	wrmsr
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_BUG_IBPB_NO_RET
	RET
SYM_FUNC_END(write_ibpb)
#endif
