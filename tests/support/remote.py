# SPDX-License-Identifier: Apache-2.0
"""A 64-bit guest that does what a test says: tests/support/guests/remote.c with the mailbox in its memory."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm import kvm
from pyvmm._core import lib
from pyvmm.config import CpuState
from pyvmm.errors import SymcallError
from tests.support import guest64

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

WRMSR, RDMSR, DOORBELL, OUT8, OUT16, IN32, CPUID, USER, USER_DOORBELL, HALT, REGISTER = range(1, 12)
LOAD, STORE = 12, 13
#: What its symcall handler does wrong, by number.
(
    NEVER_RETURNS,
    HALTS,
    FAILS,
    FAULTS,
    TRIPLE_FAULTS,
    LOSES_PAGE_TABLES,
    REGISTERS_ANEW,
    SCRIBBLES,
    RETURNS_FROM_USER,
    RINGS,
    LEAVES_LONG_MODE,
    MAPS,
    LOSES_ITS_GDT,
) = range(0x2000, 0x200D)
SCRIBBLE_PORT = 0x5F0
WAKE_VECTOR = 0x50
LAPIC = 0xFEE00000
PATIENCE = 40.0


class Remote:
    """The guest, running. Options go to the machine."""

    def __init__(self, **options: Any) -> None:
        self.image = guest64.build(*guest64.REMOTE)
        options.setdefault("symbiotic", True)
        self.machine = guest64.machine(self.image, **options)
        self._ready = threading.Event()
        self._second = threading.Event()
        self.machine.on_mmio(guest64.REPORT, 4, self._report)

    def _report(self, exit: Exit) -> None:
        (self._ready if exit.value == 1 else self._second).set()

    def start(self) -> Remote:
        self.machine.start()
        assert self._ready.wait(PATIENCE), "the guest does not start"
        return self

    def prepare_second(self) -> None:
        """The second vCPU runs second() from the start on, instead of waiting to be woken."""
        symbols = self.image.symbols
        state = CpuState(
            "long",
            rip=symbols["second"],
            rsp=symbols["second_stack_top"] - 8,
            cr3=guest64.KERNEL_TABLES,
            gdt_base=guest64.BOOT_GDT,
            gdt_limit=31,
        )
        self.machine.vcpus[1].set_state(state)
        self.machine.vcpus[1].kvm.set_mp_state(kvm.KVM_MP_STATE_RUNNABLE)

    def await_second(self) -> None:
        assert self._second.wait(PATIENCE), "the second vCPU does not start"

    def address(self, name: str) -> int:
        return self.image.symbols[name]

    def value(self, name: str, index: int = 0) -> int:
        return guest64.read(self.machine, self.image, name, index)

    def set_value(self, name: str, value: int, index: int = 0) -> None:
        guest64.write(self.machine, self.image, name, value, index)

    def post(self, command: int, *arguments: int) -> None:
        """Gives the guest something to do, and does not wait."""
        for i, argument in enumerate(arguments):
            self.set_value("mail", argument, 1 + i)
        self.set_value("mail", command)

    def done(self) -> bool:
        return self.value("mail") == 0

    def finish(self) -> int:
        """Waits until it is done: the answer."""
        deadline = time.monotonic() + PATIENCE
        while not self.done():
            assert time.monotonic() < deadline, "the guest does not answer"
            time.sleep(0.0005)
        return self.value("mail", 7)

    def do(self, command: int, *arguments: int) -> int:
        self.post(command, *arguments)
        return self.finish()

    def result(self, index: int = 0) -> int:
        return self.value("mail", 8 + index)

    def wrmsr(self, index: int, value: int) -> bool:
        """False if that raised #GP."""
        return not self.do(WRMSR, index, value)

    def rdmsr(self, index: int) -> int | None:
        """None if that raised #GP."""
        return None if self.do(RDMSR, index) else self.result()

    def ring(self, number: int, *arguments: int, user: bool = False) -> list[int]:
        """Rings the doorbell: RAX, RBX, RCX, RDX, RSI, RDI afterwards."""
        words = (number, *arguments, *(0,) * (5 - len(arguments)))
        self.do(USER_DOORBELL if user else DOORBELL, *words)
        return [self.result(i) for i in range(6)]

    def peek(self, address: int) -> int:
        """Eight bytes at a virtual address, as the guest reads them."""
        assert self.do(LOAD, address) == 0
        return self.result()

    def poke(self, address: int, value: int) -> None:
        """Has the guest write eight bytes."""
        assert self.do(STORE, address, value) == 0

    def turns(self, level: int = 0) -> int:
        return self.value("turns", level)

    def goes_on(self, level: int = 0) -> bool:
        """Whether the guest makes progress: 0 its kernel, 1 its code at CPL 3, 2 its second vCPU."""
        before = self.turns(level)
        deadline = time.monotonic() + PATIENCE
        while self.turns(level) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.turns(level) != before

    def wake(self) -> None:
        """An interrupt from outside."""
        self.machine.vm.signal_msi(LAPIC, WAKE_VECTOR)

    def symcall(self, number: int, *arguments: int, **more: Any) -> Any:
        return self.machine.symcall(0, number, *arguments, **more)

    def refusal(self, number: int, *arguments: int) -> SymcallError:
        """The error that a symcall must end with."""
        with pytest.raises(SymcallError) as raised:
            self.symcall(number, *arguments)
        return raised.value

    def works(self) -> bool:
        """A symcall and the guest itself, both."""
        answer = self.symcall(lib.SYMCALL_TEST, 1, 2, 3, 4, 5)
        return tuple(answer[:5]) == (2, 3, 4, 5, 6) and self.goes_on()

    def counters(self) -> dict[str, int]:
        """Those that are not 0, but for calls, returned and doorbells."""
        usual = ("calls", "returned", "doorbells")
        return {name: n for name, n in self.machine.symcalls.items() if n and name not in usual}

    def close(self) -> None:
        self.machine.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def deadline() -> float:
    """Seconds: short for a handler that never returns, long enough for one that does."""
    return 2.0 if "PYVMM_LAB" in os.environ else 0.5


def has_user_ports() -> bool:
    """Whether CPL 3 gets at ports with IOPL 3: not so where KVM has neither VT-x nor SVM."""
    return not guest64.is_software()
