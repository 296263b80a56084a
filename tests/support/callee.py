# SPDX-License-Identifier: Apache-2.0
"""A bare 64-bit guest for tests: one piece of code, with an entry for symcalls and handlers of two exceptions."""

from __future__ import annotations

from typing import Any

from pyvmm._core import lib
from pyvmm.boot import segments
from pyvmm.config import BOOT_CS, CpuState, MachineConfig
from pyvmm.machine.machine import Machine
from tests.support import bare

MEMORY = 8 << 20
MMIO = 0xD0100000
#: What a vCPU's own page, the stacks and the table of handlers take.
SPY_PAGE, STACK, HANDLER_STACK, IDT = 0x5000, 0x7000, 0x8800, 0x6000
#: Left alone by all of this; the last of the guest's memory is not mapped until it is touched.
SOURCE, TARGET, ABSENT = 0x200000, 0x300000, 0x600000
#: RCX, RSI, RDI and the flags behind the code, and how many exceptions came.
AFTER, FAULTS, TRAPS = 0x7800, 0x7900, 0x7908
PAGE_FAULT, DEBUG = 14, 1
LARGE_PAGE = 2 << 20


def _wrmsr(index: int, value: int) -> str:
    return (
        f"mov ecx, {index:#x}\nmov eax, {value & 0xFFFFFFFF:#x}\nmov edx, {value >> 32:#x}\nwrmsr\n"
    )


def _registration(promises: int) -> str:
    return (
        _wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, SPY_PAGE)
        + _wrmsr(lib.MSR_SYMBIOTIC_RSP, HANDLER_STACK)
        + _wrmsr(lib.MSR_SYMBIOTIC_CS, BOOT_CS)
        + _wrmsr(lib.MSR_SYMBIOTIC_PROMISES, promises)
        + f"""
    lea rax, [rip + handler]
    mov ecx, {lib.MSR_SYMBIOTIC_RIP:#x}
    xor edx, edx
    wrmsr
    mov eax, {SPY_PAGE + lib.SYMBIOTIC_FLAGS_OFFSET:#x}
    or dword ptr [rax], {lib.SYMBIOTIC_VCPU_ENABLED}
    lidt [rip + table]
"""
    )


def _rest(handler: str, entry: int) -> str:
    """What follows the code: the end, the handler, and those of exceptions; `entry` maps what was absent."""
    return f"""
    mov eax, {AFTER:#x}
    mov [rax], rcx
    mov [rax + 8], rsi
    mov [rax + 16], rdi
    pushfq
    pop qword ptr [rax + 24]
    hlt
handler:
    {handler}
    inc rbx
    mov eax, {lib.SYMBIOTIC_RETURN}
    out {lib.SYMBIOTIC_PORT}, eax
    ud2
page_fault:
    push rax
    mov eax, {FAULTS:#x}
    inc qword ptr [rax]
    mov eax, {entry:#x}
    or qword ptr [rax], 1
    mov rax, cr2
    invlpg [rax]
    pop rax
    add rsp, 8
    iretq
debug:
    push rax
    mov eax, {TRAPS:#x}
    inc qword ptr [rax]
    pop rax
    iretq
table:
    .word 0xfff
    .quad {IDT:#x}
    .balign 16
vectors:
    .quad page_fault, debug
"""


def _gate(address: int) -> bytes:
    """An interrupt gate of long mode (SDM volume 3, 6.14.1)."""
    low = address & 0xFFFF | BOOT_CS << 16 | 0x8E00 << 32 | (address >> 16 & 0xFFFF) << 48
    return low.to_bytes(8, "little") + (address >> 32).to_bytes(8, "little")


def machine(code: str, *, handler: str = "", promise: bool = True, **options: Any) -> Machine:
    """A machine that will register its entry, run the code and halt.

    Its handler of symcalls begins with `handler`, and returns RBX + 1. With `promise` it says that it keeps the state
    which the VMM would save otherwise. Options go to the machine.
    """
    built = Machine(MachineConfig(MEMORY, 1, irqchip=False, symbiotic=True, **options))
    cr3 = segments.write_identity_map(built.memory)
    entry = cr3 + 2 * 4096 + ABSENT // LARGE_PAGE * 8
    promises = lib.SYMBIOTIC_PROMISE_NO_FPU if promise else 0
    text = _registration(promises) + code + _rest(handler, entry)
    flat = bare.assemble(text, bits=64)
    built.memory.write(bare.CODE, flat)
    for vector, at in ((PAGE_FAULT, -16), (DEBUG, -8)):
        address = int.from_bytes(flat[at : at + 8 or None], "little")
        built.memory.write(IDT + vector * 16, _gate(address))
    built.memory.write(entry, (ABSENT | 0b1000_0010).to_bytes(8, "little"))
    gdt = segments.write_gdt(built.memory, long_mode=True)
    state = CpuState(
        "long", rip=bare.CODE, rsp=STACK, cr3=cr3, gdt_base=gdt, gdt_limit=segments.GDT_LIMIT
    )
    built.set_state(state)
    return built


def word(built: Machine, address: int) -> int:
    """Eight bytes of the guest's memory."""
    return int.from_bytes(built.memory.read(address, 8), "little")
