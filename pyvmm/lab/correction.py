# SPDX-License-Identifier: Apache-2.0
"""QEMU without two faults of its SVM: copies of the program with an instruction less, or another
one.

VMRUN with an interrupt to inject (``helper_vmrun`` in target/i386/tcg) stores the vector in
``exception_index`` and delivers it. The index stays. If the CPU is told to leave its loop before
the guest's next exit, what is left there counts as an exception that was not delivered yet: the
guest gets its interrupt twice, the second time at the first instruction of the handler, where
interrupts are off. Nothing reads the index on the right way, so the store can go.

Since 9.1 a read of CR3 counts as one of CR0: ``decode_op`` adds the number of the register to the
code of the exit only where that is not 0, which the code of reading CR0 is. With shadow paging KVM
does not ask for exits where CR0 is read, and the guest reads the host's CR3.
``cpu_svm_has_intercept`` looks whether an exit is asked for: it is made to say yes to a read of any
control register if exits of one kind are asked for. KVM then emulates the instruction as it is.

docs/lab.md has figures.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

NOP = bytes.fromhex("660f1f440000")  # one instruction of six bytes
DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM
NMI = 2
REACH = 64  # bytes from the store to the call
#: mov %esi, DISPLACEMENT(REGISTER): the vector, second argument of the call, to a place below env: in CPUState.
STORE = re.compile(rb"\x89([\xb0-\xb3\xb5-\xb7])(..\xff\xff)", re.DOTALL)


#: movzwl INTERCEPTED(%rdi), %eax; bt %esi, %eax; setb %al: whether exits are asked for where that register is read. For
#: other registers their first number is taken off %esi before.
ASKED = re.compile(rb"\x0f\xb7\x87.{4}(\x0f\xa3\xf0\x0f\x92\xc0)", re.DOTALL)
ANY = bytes.fromhex("85c090 0f95c0")  # test %eax, %eax; nop; setne %al


class Function(NamedTuple):
    """Where a function of the program is."""

    address: int
    offset: int  # in the file
    size: int


def corrected(program: bytes) -> bytes | None:
    """Return the program without the store, or None where that is not found beyond doubt."""
    try:
        found = functions(program, ("helper_vmrun", "do_interrupt_x86_hardirq"))
    except (struct.error, ValueError, IndexError):
        return None
    if len(found) != 2:
        return None
    vmrun, deliver = found["helper_vmrun"], found["do_interrupt_x86_hardirq"]
    code = program[vmrun.offset : vmrun.offset + vmrun.size]
    calls = [
        at for at in range(len(code) - 4) if calls_to(code, at, deliver.address - vmrun.address)
    ]
    if len(calls) != 1:
        return None
    start = max(0, calls[0] - REACH)
    stores = [one for one in STORE.finditer(code, start, calls[0]) if is_index(code, one)]
    if len(stores) != 1:
        return None
    at = vmrun.offset + stores[0].start()
    return program[:at] + NOP + program[at + len(NOP) :]


def with_intercepted_reads(program: bytes) -> bytes | None:
    """Return the program in which a read of any control register exits if that of one is to.

    None where the code is not found beyond doubt.
    """
    try:
        found = functions(program, ("cpu_svm_has_intercept",))
    except (struct.error, ValueError, IndexError):
        return None
    if len(found) != 1:
        return None
    (asks,) = found.values()
    places = list(ASKED.finditer(program, asks.offset, asks.offset + asks.size))
    if len(places) != 1:
        return None
    start, end = places[0].span(1)
    return program[:start] + ANY + program[end:]


def calls_to(code: bytes, at: int, target: int) -> bool:
    """Return whether a call of ``target``, counted from the start of ``code``, is at ``at``."""
    if code[at] != 0xE8:
        return False
    (distance,) = struct.unpack_from("<i", code, at + 1)
    return bool(at + 5 + distance == target)


def is_index(code: bytes, store: re.Match[bytes]) -> bool:
    """Return whether what is written is ``exception_index``: the injection of an NMI puts the
    number of that there.
    """
    register = store[1][0] & 7
    return bytes([0xC7, 0x80 | register]) + store[2] + struct.pack("<I", NMI) in code


def functions(program: bytes, names: tuple[str, ...]) -> dict[str, Function]:
    """Return the functions that an ELF64 program exports.

    Raise ValueError, IndexError or struct.error if it is none, or is cut off.
    """
    if program[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not an ELF64 program")
    (table,) = struct.unpack_from("<Q", program, 0x28)
    size, count = struct.unpack_from("<HH", program, 0x3A)
    sections = [section(program, table + number * size) for number in range(count)]
    found = {}
    for one in sections:
        if one.kind != DYNAMIC_SYMBOLS:
            continue
        strings = sections[one.link]
        for at in range(one.offset, one.offset + one.size, 24):
            name_at, _, index, value, length = struct.unpack_from("<IHHQQ", program, at)
            begin = strings.offset + name_at
            name = program[begin : program.index(b"\0", begin)].decode("utf-8", "replace")
            if name in names and 0 < index < len(sections):
                home = sections[index]
                found[name] = Function(value, value - home.address + home.offset, length)
    return found


class Section(NamedTuple):
    """Of a section's header what is needed here."""

    kind: int
    address: int
    offset: int
    size: int
    link: int


def section(program: bytes, at: int) -> Section:
    """Read a section's header."""
    _, kind, _, address, offset, size, link = struct.unpack_from("<IIQQQQI", program, at)
    return Section(kind, address, offset, size, link)
