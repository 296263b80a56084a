# SPDX-License-Identifier: Apache-2.0
"""A symcall in the hook of one element of a string instruction, or of one part of an access: nothing shows of it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import bare, callee
from tests.support.callee import ABSENT, MMIO, SOURCE, TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine.hooks import Exit

#: But for single steps: Bochs ends the first before it has executed anything (docs/lab.md).
on_vmx = pytest.mark.host("vmx", "shadow", rest=True)
pytestmark = pytest.mark.host("linux")

PORT = 0x510
#: Bytes of the device, and where in it the instructions write.
DEVICE, FAR = 0x20000, 0x10000
#: KVM hands bytes for a string input over in pieces of so many.
INPUT_PIECE = 1024


class Run(NamedTuple):
    """Everything that a guest and its device can see."""

    log: list[tuple[bool, int, int, int]]
    memory: bytes
    made: int
    touched: int  # bytes of the target that were changed when a call came


class Device:
    """Memory behind hooks, in which the byte at an offset follows from it; `at` says in which accesses it calls."""

    def __init__(self, at: Callable[[int], bool], target: int, size: int) -> None:
        self.log: list[tuple[bool, int, int, int]] = []
        self.at = at
        self.target = (target, size)
        self.made = self.touched = 0

    def serve(self, exit: Exit) -> int:
        number = len(self.log)
        first = exit.offset if exit.address >= MMIO else number * 4
        value = int.from_bytes(
            bytes((first + i) * 7 + 3 & 0xFF for i in range(exit.size)), "little"
        )
        self.log.append(
            (exit.is_write, exit.offset, exit.size, exit.value if exit.is_write else value)
        )
        if self.at(number):
            self.call(exit)
        return value

    def call(self, exit: Exit) -> None:
        memory = exit.vcpu.machine.memory
        before = memory.read(*self.target)
        assert exit.vcpu.symcall(1, 41).rbx == 42
        after = memory.read(*self.target)
        changed = sum(a != b for a, b in zip(before, after, strict=True)) if before != after else 0
        self.touched = max(self.touched, changed)
        self.made += 1


def run(code: str, at: Callable[[int], bool], target: int, size: int, promise: bool) -> Run:
    """Runs the code with calls in the accesses that `at` chooses."""
    device = Device(at, target, size)
    with callee.machine(code, promise=promise) as machine:
        machine.on_mmio(MMIO, DEVICE, device.serve)
        machine.on_port(PORT, device.serve)
        machine.memory.write(SOURCE, bytes((i * 7 + 3) & 0xFF for i in range(DEVICE)))
        machine.memory.write(TARGET, b"\x55" * DEVICE)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        memory = machine.memory.read(0, callee.MEMORY)
    return Run(device.log, memory, device.made, device.touched)


#: The code, which has the promise in it, the page that is shared with the VMM, and the stack of the handler.
NOT_COMPARED = {bare.CODE >> 12, callee.SPY_PAGE >> 12, callee.HANDLER_STACK >> 12}


def differing(one: bytes, other: bytes) -> list[int]:
    """The pages in which two memories differ."""
    pages = set(range(len(one) >> 12)) - NOT_COMPARED
    return [n for n in sorted(pages) if one[n << 12 : n + 1 << 12] != other[n << 12 : n + 1 << 12]]


def compare(code: str, target: int = TARGET, size: int = 8, *, most: int = 8) -> None:
    """Runs it without calls, with one in the first, the middle and the last access, and with a promise or without.

    At most so many bytes of the target may be touched by a call.
    """
    plain = run(code, lambda _: False, target, size, True)
    assert plain.log, "the guest does not come to the device"
    for number in {0, len(plain.log) // 2, len(plain.log) - 1}:
        called = run(code, number.__eq__, target, size, bool(number % 2))
        assert called.made == 1
        assert called.log == plain.log
        assert not differing(called.memory, plain.memory)
        assert called.touched <= most


def repeat(instruction: str, source: int, target: int, count: int, step: int = 0) -> str:
    """The instruction with RSI, RDI and RCX; backwards in such steps."""
    back = step * (count - 1)
    return f"""
    mov esi, {source + back:#x}
    mov edi, {target + back:#x}
    mov ecx, {count}
    mov edx, {PORT:#x}
    mov eax, 0x12345678
    {"std" if step else "cld"}
    rep {instruction}
    cld
"""


class Case(NamedTuple):
    instruction: str
    source: int
    target: int
    most: int
    step: int = 0


STRINGS = {
    "movs of MMIO": Case("movsd", MMIO, TARGET, 4),
    "movs of MMIO, backwards": Case("movsd", MMIO, TARGET, 4, 4),
    "movs of MMIO across pages": Case("movsq", MMIO + 5, TARGET, 8),
    "movs to MMIO": Case("movsd", SOURCE, MMIO, 0),
    "movs to MMIO across pages": Case("movsq", SOURCE, MMIO + 5, 0),
    "movs from MMIO to MMIO": Case("movsd", MMIO, MMIO + FAR, 0),
    "stos to MMIO": Case("stosd", SOURCE, MMIO, 0),
    "lods of MMIO": Case("lodsd", MMIO, TARGET, 0),
    "cmps of MMIO": Case("cmpsd", MMIO, SOURCE, 0),
    "scas of MMIO": Case("scasb", SOURCE, MMIO, 0),
    "ins": Case("insd", SOURCE, TARGET, INPUT_PIECE),
    "ins, backwards": Case("insd", SOURCE, TARGET, INPUT_PIECE, 4),
    "ins across pages": Case("insd", SOURCE, TARGET + 0x1002, INPUT_PIECE),
    "ins to MMIO": Case("insd", SOURCE, MMIO, 0),
    "outs": Case("outsd", SOURCE, TARGET, 0),
    "outs of MMIO": Case("outsd", MMIO, TARGET, 0),
}
#: One each of reads and writes of MMIO and of ports.
ONCE_MORE = ("movs of MMIO", "movs to MMIO", "ins", "outs")


@functools.cache
def _code(name: str, count: int) -> str:
    case = STRINGS[name]
    return repeat(case.instruction, case.source, case.target, count, case.step)


def string(name: str, count: int) -> None:
    compare(_code(name, count), TARGET, DEVICE, most=STRINGS[name].most)


@pytest.mark.parametrize("count", [65])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=on_vmx if name in ONCE_MORE else ()) for name in STRINGS]
)
def test_an_element_of_a_string(name: str, count: int) -> None:
    string(name, count)


@pytest.mark.rest
@pytest.mark.parametrize("count", [1, 64, 1024, 2048, 5000])
@pytest.mark.parametrize("name", STRINGS)
def test_an_element_of_a_long_string(name: str, count: int) -> None:
    string(name, count)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in {"movs of MMIO", "ins"} else pytest.mark.rest)
        for name in STRINGS
    ],
)
def test_every_element_of_a_string(name: str) -> None:
    code = _code(name, 65)
    plain = run(code, lambda _: False, TARGET, DEVICE, True)
    called = run(code, lambda _: True, TARGET, DEVICE, True)
    assert called.made == len(plain.log)
    assert called.log == plain.log
    assert not differing(called.memory, plain.memory)


ACCESSES = {
    "a read across a page": f"mov ebx, {MMIO + 0xFFC:#x}\nmov rax, [rbx]\nmov [{TARGET:#x}], rax",
    "a write across a page": f"mov ebx, {MMIO + 0xFFC:#x}\nmov [rbx], rax",
    "a change in place": f"mov ebx, {MMIO:#x}\nmov ecx, 5\nadd [rbx], ecx\nlock xadd [rbx + 64], ecx",
    "a push": f"mov ebx, {MMIO:#x}\npush [rbx]\npop rax",
    "a pop": f"mov ebx, {MMIO:#x}\npush rbx\npop [rbx]",
}


@on_vmx
@pytest.mark.parametrize("name", ACCESSES)
def test_a_part_of_an_access(name: str) -> None:
    compare(ACCESSES[name])


FAULTS = {
    "movs": repeat("movsd", MMIO, ABSENT - 16, 8),
    "movs of an element across": repeat("movsq", MMIO, ABSENT - 12, 4),
    "push": f"mov rsi, rsp\nmov esp, {ABSENT + 8:#x}\nmov ebx, {MMIO:#x}\npush [rbx]\nmov rsp, rsi",
}


@on_vmx
@pytest.mark.parametrize("name", FAULTS)
def test_a_page_fault_behind_a_read(name: str) -> None:
    """KVM is about to deliver it when it has finished the instruction with zeros: the handler must not get it."""
    code = FAULTS[name]
    plain = run(code, lambda _: False, ABSENT - 64, 128, True)
    assert int.from_bytes(plain.memory[callee.FAULTS : callee.FAULTS + 8], "little") == 1
    for number in range(len(plain.log)):
        called = run(code, number.__eq__, ABSENT - 64, 128, True)
        assert called.made == 1
        assert not differing(called.memory, plain.memory)


def test_a_single_step() -> None:
    """The trap behind the instruction that is put aside is not the handler's."""
    code = f"""
    mov ebx, {MMIO:#x}
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    mov eax, [rbx]
    mov [rbx + 8], eax
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    mov [{TARGET:#x}], eax
"""
    compare(code)
    plain = run(code, lambda _: False, TARGET, 8, True)
    assert int.from_bytes(plain.memory[callee.TRAPS : callee.TRAPS + 8], "little") >= 4
