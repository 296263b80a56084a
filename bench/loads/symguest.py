# SPDX-License-Identifier: Apache-2.0
"""The bare guest of the symcall benchmark: 64-bit, its own page tables and GDT, a loop of exits at
CPL 0 or 3.

It finds its parameters in registers: RBX rounds, RSI the port, RDI flags, RAX the value it writes
to the port. After `WARM_UP` rounds it makes a mark (port 0xf5), does its rounds, and ends with an
ACPI power-off.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from pyvmm._core import lib

CODE = 0x1000
ENTRY = 0x1800
CS = 0x10
PAGE = 0x5000
USER_STACK = 0x6000
CALL_STACK = 0x7000
STACK = 0x8000
TABLES = 0x9000
GDT = 0x500
SIZE = 2 << 20
WARM_UP = 100  # rounds; an emulated CPU translates code, a real one fills its caches

FLAG_USER = 1  # run the loop at CPL 3, with IOPL 3
FLAG_REGISTER = 2  # register for symcalls
FLAG_SPIN = 4  # no exits: spin for ever
FLAG_HALT = 8  # no exits: halt for ever; wants CPL 0
FLAG_NO_PROMISE = 16  # the VMM has to keep extended state and KERNEL_GS_BASE around each call

#: Null, unused, 64-bit code and data at CPL 0, and at CPL 3.
DESCRIPTORS = (0, 0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xAFFB000000FFFF, 0xCFF3000000FFFF)
GDT_LIMIT = len(DESCRIPTORS) * 8 - 1

PROGRAM = f"""
    .macro set_msr index, value
    mov ecx, \\index
    mov eax, \\value
    wrmsr
    .endm

    mov r12, rbx            # rounds
    mov r13, rax            # what is written
    mov r14, rdi
    mov r15, rsi            # the port
    test r14d, {FLAG_REGISTER}
    jz registered
    xor edx, edx
    set_msr {lib.MSR_SYMBIOTIC_RSP}, {CALL_STACK}
    set_msr {lib.MSR_SYMBIOTIC_CS}, {CS}
    set_msr {lib.MSR_SYMBIOTIC_GS_BASE}, 0
    set_msr {lib.MSR_SYMBIOTIC_PROMISES}, {lib.SYMBIOTIC_PROMISE_NO_FPU}
    set_msr {lib.MSR_SYMBIOTIC_VCPU_PAGE}, {PAGE}
    set_msr {lib.MSR_SYMBIOTIC_RIP}, {ENTRY}
    mov dword ptr [{PAGE + lib.SYMBIOTIC_FLAGS_OFFSET}], {lib.SYMBIOTIC_VCPU_ENABLED}
    test r14d, {FLAG_NO_PROMISE}
    jz registered
    set_msr {lib.MSR_SYMBIOTIC_PROMISES}, 0
registered:
    test r14d, {FLAG_USER}
    jz loop
    push 0x2b
    push {USER_STACK}
    push 0x3002             # IOPL 3
    push 0x23
    lea rax, loop[rip]
    push rax
    iretq
loop:
    mov ebp, {WARM_UP}
    test r14d, {FLAG_SPIN} + {FLAG_HALT}
    jnz marked
1:  mov eax, r13d           # a doorbell's answer overwrites RAX and RDX
    mov edx, r15d
    out dx, eax
    dec ebp
    jnz 1b
    test r12d, r12d
    jz end
marked:
    mov eax, 1
    out 0xf5, al            # the mark
    test r14d, {FLAG_SPIN}
    jnz spin
    test r14d, {FLAG_HALT}
    jnz halt
    mov ebp, r12d
    xor r12d, r12d
    jmp 1b
end:
    mov edx, 0x604          # ACPI power-off
    mov eax, 0x3400
    out dx, ax
spin:
    pause
    jmp spin
halt:
    sti
    hlt
    jmp halt

    .org {ENTRY - CODE:#x}
    inc rbx
    inc rcx
    inc rdx
    inc rsi
    inc rdi
    mov eax, {lib.SYMBIOTIC_RETURN}
    out {lib.SYMBIOTIC_PORT}, eax
"""


def assemble(text: str) -> bytes:
    """Return machine code of the text, by the binutils that came with gcc."""
    with tempfile.TemporaryDirectory() as folder:
        source, obj, flat = (str(Path(folder) / name) for name in ("s.s", "s.o", "s.bin"))
        Path(source).write_text(f".intel_syntax noprefix\n.code64\n{text}\n")
        subprocess.run(["as", "--64", "-o", obj, source], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", obj, flat], check=True)
        return Path(flat).read_bytes()


@functools.cache
def image() -> bytes:
    """Return the first pages of the guest's memory."""
    memory = bytearray(TABLES + 3 * 0x1000)
    for index, descriptor in enumerate(DESCRIPTORS):
        memory[GDT + index * 8 : GDT + index * 8 + 8] = descriptor.to_bytes(8, "little")
    code = assemble(PROGRAM)
    memory[CODE : CODE + len(code)] = code
    for level in range(2):
        entry = TABLES + (level + 1) * 0x1000 | 7
        memory[TABLES + level * 0x1000 : TABLES + level * 0x1000 + 8] = entry.to_bytes(8, "little")
    memory[TABLES + 0x2000 : TABLES + 0x2008] = (0x87).to_bytes(8, "little")  # 2 MiB
    return bytes(memory)
