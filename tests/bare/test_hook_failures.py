# SPDX-License-Identifier: Apache-2.0
"""Hooks that fail, refuse, or do not come to an end: what they leave behind is whole."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.errors import SymcallError
from pyvmm.machine.hooks import GuestFault
from tests.support import bare, callee
from tests.support.callee import MMIO, TARGET

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

pytestmark = [pytest.mark.host("linux"), pytest.mark.host("vmx", "shadow", rest=True)]

MSR = 0x4B564D10
PORT = 0x510


@pytest.mark.parametrize("access", [f"mov edx, {PORT:#x}\nin eax, dx", f"mov eax, [{MMIO:#x}]"])
def test_a_refusal_outside_msrs_is_nobody_there(access: str) -> None:
    """And it is about that access alone: the MSR that is read next has its own hook."""

    def refuse(exit: Exit) -> None:
        raise GuestFault

    code = f"{access}\nmov [{TARGET:#x}], eax\nmov ecx, {MSR:#x}\nrdmsr\nmov [{TARGET + 8:#x}], eax"
    with callee.machine(code) as machine:
        machine.on_port(PORT, refuse)
        machine.on_mmio(MMIO, 8, refuse)
        machine.on_msr(MSR, lambda _: 0x77)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        assert callee.word(machine, TARGET) == 0xFFFFFFFF
        assert callee.word(machine, TARGET + 8) == 0x77


def test_a_hook_that_fails_before_a_call_begins() -> None:
    """The write lies across two pages, so that a call in the hook of its first part has the second served before it."""
    log: list[str] = []

    def hook(exit: Exit) -> int:
        log.append(f"{'write' if exit.is_write else 'read'} {exit.offset:#x}")
        if exit.is_write and exit.offset == 0x1000:
            raise ValueError("a mistake")
        if exit.is_write and exit.offset == 0xFFC:
            with pytest.raises(ValueError, match="a mistake"):
                exit.vcpu.symcall(1)
        if not exit.is_write:
            assert exit.vcpu.symcall(1, 41).rbx == 42
        return 0x1234

    code = f"""
    mov edi, {MMIO:#x}
    mov [rdi + 0xffc], rax
    mov eax, [rdi + 0x800]
    mov [{TARGET:#x}], rax
"""
    with callee.machine(code) as machine:
        machine.on_mmio(MMIO, 0x2000, hook)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        assert log == ["write 0xffc", "write 0x1000", "read 0x800"]
        assert callee.word(machine, TARGET) == 0x1234


#: A handler that reads a device for long; the code that it interrupts has the same registers in use.
READS = (
    f"mov esi, {MMIO + 0x1000:#x}\nmov edi, {TARGET + 0x10000:#x}\nmov ecx, 3000\ncld\nrep movsd"
)
#: The same from a port: a thousand elements are one exit.
INPUTS = f"mov edx, {PORT + 1:#x}\nmov edi, {TARGET + 0x10000:#x}\nmov ecx, 3000\ncld\nrep insb"
CODE = f"""
    mov esi, 1111
    mov edi, 2222
    mov ecx, 3333
    mov edx, {PORT:#x}
    out dx, al
"""


def _state(machine: object) -> list[int]:
    return [callee.word(machine, callee.AFTER + i * 8) for i in range(3)]  # type: ignore[arg-type]


def test_a_hook_that_fails_in_a_long_string_of_a_handler() -> None:
    """The call is given up in the middle of an instruction, which leaves no trace in what the call interrupted."""
    seen: list[int] = []

    def element(exit: Exit) -> int:
        seen.append(exit.offset)
        if len(seen) == 5:
            raise ValueError("a mistake")
        return 0x77

    def begin(exit: Exit) -> None:
        with pytest.raises(ValueError, match="a mistake"):
            exit.vcpu.symcall(1)

    with callee.machine(CODE, handler=READS) as machine:
        machine.on_mmio(MMIO, 0x10000, element)
        machine.on_port(PORT, begin)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        assert _state(machine) == [3333, 1111, 2222]
    assert len(seen) == 5


@pytest.mark.parametrize("handler", [READS, INPUTS])
def test_a_deadline_in_a_long_string_of_a_handler(handler: str) -> None:
    """It is kept between two elements, of which there are a thousand without the guest going on in between."""
    seen: list[int] = []

    def element(exit: Exit) -> int:
        seen.append(exit.offset)
        time.sleep(0.01)
        return 0x77

    def begin(exit: Exit) -> None:
        with pytest.raises(SymcallError) as raised:
            exit.vcpu.symcall(1)
        assert raised.value.reason == "deadline"

    with callee.machine(CODE, handler=handler, symcall_deadline=0.2) as machine:
        machine.on_mmio(MMIO, 0x10000, element)
        machine.on_port(PORT, begin)
        machine.on_port(PORT + 1, element)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        assert _state(machine) == [3333, 1111, 2222]
    assert len(seen) < 1000


@pytest.mark.parametrize("code", [READS, INPUTS])
def test_a_stop_in_a_long_string(code: str) -> None:
    """It waits for the hook of one element, and not for those of the others."""
    seen: list[int] = []

    def element(exit: Exit) -> int:
        seen.append(exit.offset)
        if len(seen) == 3:
            machine.stop()
        return 0x77

    with callee.machine(code) as machine:
        machine.on_mmio(MMIO, 0x10000, element)
        machine.on_port(PORT + 1, element)
        assert bare.run(machine).reason == "stopped"  # type: ignore[attr-defined]
    assert len(seen) == 3


#: Levels of Python's stack that are left when a hook makes its call, one number each time.
SPARES = range(1, 40)
READ_ONCE = f"mov esi, {MMIO:#x}\nmov eax, [rsi]"


def test_a_call_with_little_of_python_s_stack_left() -> None:
    """Wherever it runs out: the call is given up, or never was, and the next one works."""
    ends = {"over": 0, "out of stack": 0}

    def descend(exit: Exit, levels: int) -> None:
        if levels:
            descend(exit, levels - 1)
        else:
            assert exit.vcpu.symcall(1, 41).rbx == 42

    def ask(exit: Exit) -> None:
        depth, frame = 0, sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            depth += 1
        try:
            descend(exit, sys.getrecursionlimit() - depth - exit.value)
            ends["over"] += 1
        except RecursionError:
            ends["out of stack"] += 1
        assert not lib.symcall_is_active(exit.vcpu._c)
        assert exit.vcpu.symcall(1, 41).rbx == 42

    code = f"mov edx, {PORT:#x}\n" + "".join(f"mov al, {n}\nout dx, al\n" for n in SPARES)
    with callee.machine(code, handler=READ_ONCE) as machine:
        machine.on_mmio(MMIO, 8, lambda _: 0x77)
        machine.on_port(PORT, ask)
        assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
    assert ends["over"] > 3
    assert ends["out of stack"] > 3
