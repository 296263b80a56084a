/* SPDX-License-Identifier: Apache-2.0 */
/* The symcall handler of the remote-controlled guest, and its doorbell. */
#include <symbiotic.h>

	.intel_syntax noprefix
	.code64
	.text

	.macro	load_registers
	mov	rax, [rip + doorbell_registers]
	mov	rbx, [rip + doorbell_registers + 8]
	mov	rcx, [rip + doorbell_registers + 16]
	mov	rdx, [rip + doorbell_registers + 24]
	mov	rsi, [rip + doorbell_registers + 32]
	mov	rdi, [rip + doorbell_registers + 40]
	.endm
	.macro	store_registers
	mov	[rip + doorbell_registers], rax
	mov	[rip + doorbell_registers + 8], rbx
	mov	[rip + doorbell_registers + 16], rcx
	mov	[rip + doorbell_registers + 24], rdx
	mov	[rip + doorbell_registers + 32], rsi
	mov	[rip + doorbell_registers + 40], rdi
	.endm

	.globl	doorbell, user_doorbell_go, user_doorbell, user_doorbell_end
doorbell:
	push	rbx
	load_registers
	out	SYMBIOTIC_PORT, eax
	store_registers
	pop	rbx
	ret
user_doorbell_go:
	push	rbx
	load_registers
user_doorbell:
	out	SYMBIOTIC_PORT, eax
user_doorbell_end:
	store_registers
	pop	rbx
	ret

/* symcall_fail(code) */
	.globl	symcall_fail
symcall_fail:
	mov	rbx, rdi
	mov	eax, SYMBIOTIC_ERROR
	out	SYMBIOTIC_PORT, eax
	ud2

	.section .handler.text, "awx"
	.balign	64
	.globl	symcall_entry, fault, fault_end
	.globl	lookups, lookup_asked, lookup_answer, lookup_lie, lookup_store
symcall_entry:
	cmp	eax, SYMCALL_MEM_LOOKUP
	je	lookup
	lea	r8d, [rax - 0x100]
	cmp	r8d, 8
	jb	can
uncanned:
	cmp	eax, 0x2000
	jae	1f
good_return:
	inc	rbx
	inc	rcx
	inc	rdx
	inc	rsi
	inc	rdi
	mov	eax, SYMBIOTIC_RETURN
	out	SYMBIOTIC_PORT, eax
	ud2
1:	cmp	eax, 0x200d
	ja	good_return
	and	eax, 0xf
	lea	rbp, [rip + lies]
	jmp	[rbp + rax * 8]

/* 0x100 to 0x107: what the test put there, if anything. */
can:
	lea	r9, [rip + canned]
	cmp	qword ptr [r9 + r8 * 8], 0
	je	uncanned
	lea	rdi, [rip + canned_asked]
	mov	[rdi + r8 * 8], rbx
	mov	rbx, [r9 + r8 * 8]
	shl	r8d, 8
	lea	rsi, [rip + canned_data]
	add	rsi, r8
	lea	rdi, [rip + vcpu_page + SYMBIOTIC_DATA_OFFSET]
	mov	ecx, 256
	rep	movsb
	mov	eax, SYMBIOTIC_RETURN
	out	SYMBIOTIC_PORT, eax
	ud2

/* MEM_LOOKUP: what the test wants said; first an 8-byte store, if it wants one, or a lie. */
lookup:
	inc	qword ptr [rip + lookups]
	mov	[rip + lookup_asked], rbx
	mov	[rip + lookup_asked + 8], rcx
	mov	[rip + lookup_asked + 16], rdx
	mov	r8, [rip + lookup_store]
	test	r8, r8
	jz	2f
	mov	r9, [rip + lookup_store + 8]
	mov	[r8], r9
2:	mov	rax, [rip + lookup_lie]
	test	rax, rax
	jnz	1b
	mov	rbx, [rip + lookup_answer]
	mov	rcx, [rip + lookup_answer + 8]
	mov	rdx, [rip + lookup_answer + 16]
	mov	eax, SYMBIOTIC_RETURN
	out	SYMBIOTIC_PORT, eax
	ud2

lie_never_returns:
	inc	qword ptr [rip + spins]
	jmp	lie_never_returns

lie_halts:
	hlt
	jmp	lie_halts

lie_fails:
	mov	eax, SYMBIOTIC_ERROR
	out	SYMBIOTIC_PORT, eax
	ud2

lie_faults:
fault:
	ud2
fault_end:
	mov	rbx, [rip + trapped]
	jmp	good_return

lie_triple_faults:
	lidt	[rip + no_table]
	ud2

/* The registers then look a little more like those after a reset. */
lie_loses_its_gdt:
	mov	ecx, 0xc0000080
	rdmsr
	btc	eax, 0 /* SCE */
	wrmsr
	lgdt	[rip + no_table]
	jmp	lie_triple_faults

lie_loses_page_tables:
	xor	eax, eax
	mov	cr3, rax
	jmp	good_return

/* RBX: MSR, RCX: value; it takes effect from the next call on. */
lie_registers_anew:
	mov	r8, rcx
	mov	ecx, ebx
	mov	eax, r8d
	mov	rdx, r8
	shr	rdx, 32
	wrmsr
	jmp	good_return

/* RBX: the flags of the page while the VMM sees an exit. */
lie_scribbles:
	lea	rax, [rip + vcpu_page]
	mov	[rax + 8], ebx
	mov	dx, 0x5f0
	out	dx, al
	jmp	good_return

/* Goes to CPL 3 and returns from there. */
lie_returns_from_user:
	push	0x2b
	lea	rcx, [rip + user_stack_top]
	push	rcx
	push	0x3002
	push	0x33
	lea	rcx, [rip + 2f]
	push	rcx
	iretq
2:	mov	qword ptr [rip + doorbell_registers], SYMBIOTIC_RETURN
	call	user_doorbell_go
	ud2 /* and comes back as a fault: an error */

/* A hypercall from within. */
lie_rings:
	mov	eax, 0x6001
	out	SYMBIOTIC_PORT, eax
	mov	rbx, rax
	jmp	good_return

/* A fault of the swap disk from within, with the arguments of the call. */
lie_maps:
	mov	rax, [rip + lookup_asked]
	mov	rbx, rax
	mov	ecx, 1
	mov	rdx, [rip + lookup_asked + 8]
	mov	esi, 7
	mov	eax, SYMBIOTIC_SWAP_MAP
	out	SYMBIOTIC_PORT, eax
	mov	[rip + lookup_inner], rax
	mov	[rip + lookup_inner + 8], rbx
	mov	qword ptr [rip + lookup_lie], 0
	mov	rbx, [rip + lookup_answer]
	mov	rcx, [rip + lookup_answer + 8]
	mov	rdx, [rip + lookup_answer + 16]
	mov	eax, SYMBIOTIC_RETURN
	out	SYMBIOTIC_PORT, eax
	ud2

/* Turns off what it runs in. */
lie_leaves_long_mode:
	mov	rax, cr0
	btr	rax, 31
	mov	cr0, rax
	jmp	good_return

	.section .handler.data, "aw"
	.balign	64
lies:
	.quad	lie_never_returns	/* 0x2000 */
	.quad	lie_halts
	.quad	lie_fails
	.quad	lie_faults
	.quad	lie_triple_faults
	.quad	lie_loses_page_tables
	.quad	lie_registers_anew
	.quad	lie_scribbles
	.quad	lie_returns_from_user	/* 0x2008 */
	.quad	lie_rings
	.quad	lie_leaves_long_mode
	.quad	lie_maps
	.quad	lie_loses_its_gdt
	.quad	good_return
no_table:
	.word	0
	.quad	0
	.balign	64
	.skip	8192
	.globl	symcall_stack_top, second_stack_top, doorbell_registers
symcall_stack_top:
	.skip	8192
second_stack_top:
doorbell_registers:
	.skip	48
lookups:
	.quad	0
lookup_asked:
	.skip	24
lookup_answer:
	.skip	24
lookup_lie:
	.quad	0
lookup_store:
	.skip	16
	.globl	lookup_inner, canned, canned_asked, canned_data
canned:
	.skip	64
canned_asked:
	.skip	64
canned_data:
	.skip	8 * 256
lookup_inner:
	.skip	16
