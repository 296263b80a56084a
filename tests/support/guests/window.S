/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window of the integrity guest: all registers are loaded, one operation runs, all registers are
 * stored. And the entry point of its symcalls.
 */
#include <symbiotic.h>

	.intel_syntax noprefix
	.code64
	.text

/* void window(void): from window_set and vectors_set, by way of *window_op, to window_got and vectors_got. */
	.globl	window
window:
	pushfq
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + window_stack], rsp
	mov	eax, [rip + vectors_mask]
	xor	edx, edx
	lea	rcx, [rip + vectors_set]
	test	eax, eax
	jz	1f
	xrstor64 [rcx]
	jmp	2f
1:	fxrstor64 [rcx]
2:	push	[rip + window_set + 128]
	popfq
	mov	rax, [rip + window_set]
	mov	rcx, [rip + window_set + 8]
	mov	rdx, [rip + window_set + 16]
	mov	rbx, [rip + window_set + 24]
	mov	rsp, [rip + window_set + 32]
	mov	rbp, [rip + window_set + 40]
	mov	rsi, [rip + window_set + 48]
	mov	rdi, [rip + window_set + 56]
	mov	r8, [rip + window_set + 64]
	mov	r9, [rip + window_set + 72]
	mov	r10, [rip + window_set + 80]
	mov	r11, [rip + window_set + 88]
	mov	r12, [rip + window_set + 96]
	mov	r13, [rip + window_set + 104]
	mov	r14, [rip + window_set + 112]
	mov	r15, [rip + window_set + 120]
	.globl	window_body
window_body:
	jmp	[rip + window_op]

	.rept	4096
	nop
	.endr
	.globl	window_end
window_end:
	mov	[rip + window_got], rax
	mov	[rip + window_got + 8], rcx
	mov	[rip + window_got + 16], rdx
	mov	[rip + window_got + 24], rbx
	mov	[rip + window_got + 32], rsp
	mov	[rip + window_got + 40], rbp
	mov	[rip + window_got + 48], rsi
	mov	[rip + window_got + 56], rdi
	mov	[rip + window_got + 64], r8
	mov	[rip + window_got + 72], r9
	mov	[rip + window_got + 80], r10
	mov	[rip + window_got + 88], r11
	mov	[rip + window_got + 96], r12
	mov	[rip + window_got + 104], r13
	mov	[rip + window_got + 112], r14
	mov	[rip + window_got + 120], r15
	mov	rsp, [rip + window_stack]
	pushfq
	pop	[rip + window_got + 128]
	cld
	mov	eax, [rip + vectors_mask]
	xor	edx, edx
	lea	rcx, [rip + vectors_got]
	test	eax, eax
	jz	1f
	xsave64	[rcx]
	jmp	2f
1:	fxsave64 [rcx]
2:	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	popfq
	ret

/* The operations. Those of a kind follow the size of their operand: 1, 2, 4 and maybe 8 bytes. */
	.macro	op name, code:vararg
	.balign	16
	.globl	op_\name
op_\name:
	\code
	jmp	window_end
	.endm

	op	in1, in al, dx
	op	in2, in ax, dx
	op	in4, in eax, dx
	op	out1, out dx, al
	op	out2, out dx, ax
	op	out4, out dx, eax
	op	ins1, insb
	op	ins2, insw
	op	ins4, insd
	op	rep_ins1, rep insb
	op	rep_ins2, rep insw
	op	rep_ins4, rep insd
	op	outs1, outsb
	op	outs2, outsw
	op	outs4, outsd
	op	rep_outs1, rep outsb
	op	rep_outs2, rep outsw
	op	rep_outs4, rep outsd
	op	load1, mov al, [rbx]
	op	load2, mov ax, [rbx]
	op	load4, mov eax, [rbx]
	op	load8, mov rax, [rbx]
	op	store1, mov [rbx], al
	op	store2, mov [rbx], ax
	op	store4, mov [rbx], eax
	op	store8, mov [rbx], rax
	op	movs1, rep movsb
	op	movs2, rep movsw
	op	movs4, rep movsd
	op	movs8, rep movsq
	op	xchg1, xchg [rbx], al
	op	xchg2, xchg [rbx], ax
	op	xchg4, xchg [rbx], eax
	op	xchg8, xchg [rbx], rax
	op	push8, push rax
	op	pop8, pop rax
	op	load16, movups xmm5, [rbx]
	op	store16, movups [rbx], xmm5
	op	loop, loop op_loop
	op	rdmsr, rdmsr
	op	wrmsr, wrmsr

/* Exits, at each of which even a software KVM looks for interrupts. */
	.balign	16
	.globl	op_storm
op_storm:
	.rept	16
	out	0x80, al
	.endr
	jmp	window_end

/* A pending interrupt must come at the label: after the one instruction that STI shields, or where KVM is software
 * at one of the exits that follow. */
	.set	LATE_EXITS, 16
	.macro	shadow name, code:vararg
	.balign	16
	.globl	shadow_\name, shadow_\name\()_end
shadow_\name:
	sti
	\code
shadow_\name\()_end:
	.rept	LATE_EXITS
	out	0x80, al
	.endr
	cli
	jmp	window_end
	.endm

	shadow	nop, nop
	shadow	out, out dx, al
	shadow	in, in al, dx
	shadow	store, mov [rbx], al
	shadow	load, mov al, [rbx]
	shadow	halt, hlt

/* The doorbell's ECHO: each brings a symcall TEST made by the VMM's C code, and its results. */
	.balign	16
	.globl	op_echo
op_echo:
	.rept	64
	mov	eax, SYMBIOTIC_ECHO
	out	SYMBIOTIC_PORT, eax
	.endr
	jmp	window_end

/* The same shield after MOV SS; without an interrupt, because the two would need one between them. */
	.balign	16
	.globl	op_ss_out
op_ss_out:
	mov	ss, r15d
	out	dx, al
	jmp	window_end

/*
 * void excursion(void): from within a symcall to CPL 3 and back; there the vector registers are lost.
 */
	.globl	excursion, excursion_leave, excursion_end
excursion:
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + excursion_stack], rsp
	push	0x2b
	lea	rax, [rip + excursion_stack_top]
	push	rax
	push	0xcd7
	push	0x33
	lea	rax, [rip + 1f]
	push	rax
	iretq
1:	mov	eax, [rip + vectors_mask]
	xor	edx, edx
	lea	rcx, [rip + vectors_lost]
	test	eax, eax
	jz	2f
	xrstor64 [rcx]
	jmp	excursion_leave
2:	fxrstor64 [rcx]
excursion_leave:
	hlt
/* on_gp() comes here. */
excursion_end:
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

	.section .handler.text, "awx"
/* All registers to `entry` as they came, then upcall(), then rubbish in all that carry no result. */
	.globl	symcall_entry
	.balign	64
symcall_entry:
	mov	[rip + entry], rax
	mov	[rip + entry + 8], rcx
	mov	[rip + entry + 16], rdx
	mov	[rip + entry + 24], rbx
	mov	[rip + entry + 32], rsp
	mov	[rip + entry + 40], rbp
	mov	[rip + entry + 48], rsi
	mov	[rip + entry + 56], rdi
	mov	[rip + entry + 64], r8
	mov	[rip + entry + 72], r9
	mov	[rip + entry + 80], r10
	mov	[rip + entry + 88], r11
	mov	[rip + entry + 96], r12
	mov	[rip + entry + 104], r13
	mov	[rip + entry + 112], r14
	mov	[rip + entry + 120], r15
	pushfq
	pop	[rip + entry + 128]
	call	upcall
	mov	r8, [rip + rubbish]
	mov	r9, r8
	mov	r10, r8
	mov	r11, r8
	mov	r12, r8
	mov	r13, r8
	mov	r14, r8
	mov	r15, r8
	mov	rbp, r8
	push	[rip + rubbish_flags]
	popfq
	mov	rcx, [rip + entry + 8]
	mov	rdx, [rip + entry + 16]
	mov	rbx, [rip + entry + 24]
	mov	rsi, [rip + entry + 48]
	mov	rdi, [rip + entry + 56]
	mov	rsp, r8
	mov	eax, [rip + ending]
	out	SYMBIOTIC_PORT, eax
	ud2

	.section .handler.data, "aw"
	.balign	64
	.globl	entry, rubbish, rubbish_flags, ending, handler_stack_top
entry:
	.skip	136
rubbish:
	.quad	0
rubbish_flags:
	.quad	2
ending:
	.quad	0
	.balign	64
	.skip	8192
handler_stack_top:

	.bss
	.balign	64
	.globl	vectors_set, vectors_got, vectors_lost, excursion_stack, window_set, window_got
	.globl	window_op, vectors_mask
vectors_set:
	.skip	4096
vectors_got:
	.skip	4096
vectors_lost:
	.skip	4096
	.skip	4096
excursion_stack_top:
window_set:
	.skip	136
window_got:
	.skip	136
window_op:
	.skip	8
window_stack:
	.skip	8
excursion_stack:
	.skip	8
vectors_mask:
	.skip	8
