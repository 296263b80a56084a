# SPDX-License-Identifier: Apache-2.0
"""Accesses of the guest that Python serves: a port, an MMIO range, an MSR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.vcpu import Vcpu


class GuestFault(Exception):
    """Raised by an MSR hook to refuse the access: the guest gets #GP, as for an MSR that is not there.

    From the hook of a port or of MMIO it means that nobody is there: a read gives all ones, a write is lost.
    """


class Exit:
    """One access by the guest, as a hook sees it.

    `address` is the port, guest-physical address or MSR index; `offset` counts from the start of the hooked range;
    `size` is in bytes; `value` is what the guest writes, or for a read what it will get (all ones until set).
    The vCPU stands still until the hook returns.
    """

    __slots__ = ("address", "is_write", "offset", "size", "value", "vcpu")

    def __init__(
        self, vcpu: Vcpu, address: int, offset: int, size: int, is_write: bool, value: int
    ) -> None:
        self.vcpu = vcpu
        self.address = address
        self.offset = offset
        self.size = size
        self.is_write = is_write
        self.value = value

    def __repr__(self) -> str:
        way = "write" if self.is_write else "read"
        return f"<Exit {way} of {self.size} bytes at {self.address:#x}, value {self.value:#x}>"


#: A hook gets the access; for a read it returns the value, or sets exit.value and returns None.
Handler = Callable[[Exit], "int | None"]


class Hypercall:
    """A call of the guest's kernel to the VMM by the doorbell, as a hook sees it.

    `args` are RBX, RCX, RDX, RSI and RDI. The vCPU stands still until the hook returns.
    """

    __slots__ = ("_words", "vcpu")

    def __init__(self, vcpu: Vcpu, words: tuple[int, ...]) -> None:
        self.vcpu = vcpu
        self._words = words

    @property
    def number(self) -> int:
        """The number of the hypercall."""
        return self._words[0]

    @property
    def args(self) -> tuple[int, ...]:
        """The five arguments."""
        return self._words[1:]

    def __repr__(self) -> str:
        words = ", ".join(f"{arg:#x}" for arg in self.args)
        return f"<Hypercall {self.number:#x}({words})>"


#: Gets the hypercall; what it returns, up to five numbers, goes into the same registers.
HypercallHandler = Callable[[Hypercall], "Sequence[int] | None"]
