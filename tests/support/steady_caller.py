# SPDX-License-Identifier: Apache-2.0
"""Symcalls of the integrity guest by a loop in C, which notes where each of them interrupted the guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm._core import ffi as core
from pyvmm._core import lib as engine
from pyvmm.errors import SymcallError
from tests.support import c_library

if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine

SOURCE = Path(__file__).with_suffix(".c")
OPAQUE = "struct vcpu; struct symcall_call;"
#: Calls of one turn.
TURN = 500


class SteadyCaller:
    """Calls the first vCPU, and must be the only one who does. The numbers are bits of upcalls.

    Of `numbers` a call may lose all; most lose what is `cheap`; some have the bit `fail` and end in an error.
    """

    def __init__(self, folder: Path, machine: Machine, numbers: int, cheap: int, fail: int) -> None:
        declared = OPAQUE + c_library.MARKED.findall(SOURCE.read_text())[0]
        ffi, self._lib = c_library.load(folder, (), declared, extra=(SOURCE,))
        self._call = engine.symcall_call_create()
        self._c = ffi.new("struct steady_caller *")
        self._c.numbers, self._c.cheap, self._c.fail = numbers, cheap, fail
        self._c.vcpu = ffi.cast("void *", address(machine.vcpus[0]._c))
        self._c.call = ffi.cast("void *", address(self._call))
        self._c.post = ffi.cast("void *", address(core.addressof(engine, "symcall_post")))
        self._c.wait = ffi.cast("void *", address(core.addressof(engine, "symcall_wait")))

    def turn(self) -> None:
        """Some calls. Raises SymcallError if the vCPU has stopped."""
        if not self._lib.steady_caller_run(self._c, TURN):
            return
        number, status, got, wanted = self._c.wrong
        if status == engine.SYMCALL_STOPPED:
            raise SymcallError("the vCPU has stopped", "stopped")
        raise AssertionError(f"symcall {number:#x}, status {status}: {got:#x}, not {wanted:#x}")

    @property
    def made(self) -> int:
        return int(self._c.returned + self._c.failed)

    @property
    def failed(self) -> int:
        """Calls that ended in the error that they were to end in."""
        return int(self._c.failed)

    @property
    def interrupted(self) -> tuple[int, int]:
        """Calls that interrupted CPL 0, and CPL 3."""
        return int(self._c.interrupted[0]), int(self._c.interrupted[1])

    @property
    def moved(self) -> int:
        """Calls that came at another instruction than the one before."""
        return int(self._c.moved)

    @property
    def in_nmi(self) -> int:
        """Calls that came while an NMI was being served."""
        return int(self._c.in_nmi)

    def close(self) -> None:
        engine.symcall_call_destroy(self._call)


def address(pointer: object) -> int:
    return int(core.cast("uintptr_t", pointer))
