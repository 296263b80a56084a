/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option ROM that boots the VT-x lab. The BIOS calls it at offset 3, in real mode, once the machine is set up. It
 * never returns: it goes to 32-bit protected mode, reads kernel, initramfs and parameters from the first disk, each
 * sector by the processor (ATA PIO: command 0x20, READ SECTORS, with a 28-bit address), and enters the kernel by PVH:
 * flat segments, paging off, EBX at struct hvm_start_info. bootdisk.py writes what is at `loads`.
 */
#define DATA       0x1f0
#define COUNT      0x1f2 /* then three bytes of address, drive with the highest four bits, and the command */
#define STATUS     0x1f7
#define READ       0x20
#define BUSY_REQ_ERR 0x89
#define REQ        0x08
#define AT_A_TIME  128 /* sectors */

	.code16
	.byte 0x55, 0xaa, SIZE / 512
	cli
	mov $0x02, %al /* A20 */
	out %al, $0x92
	lgdtl %cs:gdtr
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $8, $(BASE + protected)

	.code32
protected:
	mov $16, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov %ax, %fs
	mov %ax, %gs
	mov $0x7c00, %esp
	cld
	mov $(BASE + loads), %ebp

next_load: /* sectors, first sector, address: 4 bytes each; no sectors: the entry point is where the address would be */
	mov 0(%ebp), %ecx
	mov 4(%ebp), %ebx
	mov 8(%ebp), %edi
	add $12, %ebp
	jecxz enter

next_command:
	push %ecx
	cmp $AT_A_TIME, %ecx
	jbe 1f
	mov $AT_A_TIME, %ecx
1:	mov $COUNT, %edx
	mov %cl, %al
	out %al, %dx
	mov %ebx, %eax
	inc %edx
	out %al, %dx
	inc %edx
	mov %ah, %al
	out %al, %dx
	shr $16, %eax
	inc %edx
	out %al, %dx
	mov %ah, %al
	or $0xe0, %al
	inc %edx
	out %al, %dx
	mov $READ, %al
	inc %edx
	out %al, %dx
	mov %ecx, %esi
next_sector:
	mov $STATUS, %edx
1:	in %dx, %al
	and $BUSY_REQ_ERR, %al
	cmp $REQ, %al
	jne 1b
	mov $DATA, %edx
	push %ecx
	mov $128, %ecx
	rep insl
	pop %ecx
	dec %esi
	jnz next_sector
	add %ecx, %ebx
	pop %eax
	sub %ecx, %eax
	mov %eax, %ecx
	jnz next_command
	jmp next_load

enter:
	mov $START_INFO, %ebx
	jmp *%edi

	.balign 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* code */
	.quad 0x00cf93000000ffff /* data */
gdtr:
	.word gdtr - gdt - 1
	.long BASE + gdt
	.balign 4
loads:
