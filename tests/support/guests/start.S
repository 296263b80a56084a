/* SPDX-License-Identifier: Apache-2.0 */
/* Entry, traps and changes of privilege of the 64-bit guests of the tests. */
	.intel_syntax noprefix
	.code64

	.section .head, "ax"
	.globl	_start
_start:
	lea	rsp, [rip + main_stack_top]
	call	begin
	hlt

	.text

/* One stub of 16 bytes a vector: all leave the same frame (struct frame). */
	.globl	trap_stubs
	.balign	16
trap_stubs:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	(vector != 8) && (vector != 17) && ((vector < 10) || (vector > 14))
	push	0
	.endif
	push	vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

trap_common:
	push	rax
	push	rcx
	push	rdx
	push	rbx
	push	rbp
	push	rsi
	push	rdi
	push	r8
	push	r9
	push	r10
	push	r11
	push	r12
	push	r13
	push	r14
	push	r15
	cld
	mov	rdi, rsp
	call	trap
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	r11
	pop	r10
	pop	r9
	pop	r8
	pop	rdi
	pop	rsi
	pop	rbp
	pop	rbx
	pop	rdx
	pop	rcx
	pop	rax
	add	rsp, 16
	.globl	trap_return
trap_return:
	iretq

/*
 * void run_user(void (*function)(void)): calls it at CPL 3, on the user stack, with the flags in user_flags
 * and the page tables in user_cr3.
 */
	.globl	run_user
run_user:
	pushfq
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + resume_stack], rsp
	push	0x2b
	lea	rax, [rip + user_stack_top]
	push	rax
	push	[rip + user_flags]
	push	0x33
	lea	rax, [rip + user_begin]
	push	rax
	mov	rax, cr3
	mov	[rip + resume_cr3], rax
	mov	rax, [rip + user_cr3]
	mov	cr3, rax
	mov	rax, rdi
	iretq
user_begin:
	call	rax
	/* Not INT: software KVMs have been seen that do not take it. */
	.globl	user_leave
user_leave:
	ud2

	/* on_ud() comes here. */
	.globl	user_end
user_end:
	mov	rax, [rip + resume_cr3]
	mov	cr3, rax
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	popfq
	ret

/* u64 try_wrmsr(u32 index, u64 value), u64 try_rdmsr(u32 index, u64 *value): 1 if it raised #GP. */
	.globl	try_wrmsr, try_rdmsr, try_fault, try_resume
try_wrmsr:
	mov	ecx, edi
	mov	eax, esi
	mov	rdx, rsi
	shr	rdx, 32
try_fault:
	wrmsr
	xor	eax, eax
	ret
try_rdmsr:
	mov	ecx, edi
	.globl	try_fault_read
try_fault_read:
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	mov	[rsi], rax
	xor	eax, eax
	ret
try_resume:
	mov	eax, 1
	ret

	.bss
	.balign	64
	.skip	16384
	.globl	main_stack_top
main_stack_top:
	.skip	16384
	.globl	user_stack_top
user_stack_top:
/* Seven stacks of the interrupt stack table. */
	.globl	ist_stacks
ist_stacks:
	.skip	7 * 8192

	.data
	.balign	8
	.globl	user_flags, user_cr3, resume_stack
user_flags:
	.quad	0x3202
user_cr3:
	.quad	0
resume_stack:
	.quad	0
resume_cr3:
	.quad	0
