# SPDX-License-Identifier: Apache-2.0
"""Accesses of the guest that Python serves: a port, an MMIO range, an MSR, a hypercall."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence

from pyvmm import kvm
from pyvmm._core import lib
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyvmm.machine.board import Board
    from pyvmm.machine.handle import Handle
    from pyvmm.machine.memory import GuestMemory
    from pyvmm.machine.part import Owner
    from pyvmm.machine.vcpu import Vcpu

PORTS = 0x10000
#: KVM filters so many ranges of MSRs at most (KVM_MSR_FILTER_MAX_RANGES).
MSR_RANGES = 16


class GuestFault(Exception):
    """Raised by an MSR hook to refuse the access: the guest gets #GP, as for an MSR that is not
    there.

    From the hook of a port or of MMIO it means that nobody is there: a read gives all ones, a write
    is lost.
    """


class Exit:
    """One access by the guest, as a hook sees it.

    `address` is the port, guest-physical address or MSR index; `offset` counts from the start of
    the hooked range; `size` is in bytes; `value` is what the guest writes, or for a read what it
    will get (all ones until set). The vCPU stands still until the hook returns.
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


class Hooks:
    """The hooks of a machine, by port, address, MSR and number of hypercall.

    May be added from any thread, at any time.

    A bus in C knows each by its place in `handlers` or `hypercall_handlers`, of which a vCPU takes
    it.
    """

    def __init__(self, owner: Owner, board: Board, vm: kvm.Vm, memory: GuestMemory) -> None:
        self._owner = owner
        self._board = board
        self._vm = vm
        self._memory = memory
        self._lock = threading.Lock()
        self._msr_ranges: list[tuple[int, int]] = []
        #: The bus of hypercalls, which a symbiotic machine has.
        self.hypercalls: Handle | None = None
        self.handlers: list[Handler] = []
        self.hypercall_handlers: list[HypercallHandler] = []

    def on_port(self, port: int, handler: Handler, count: int = 1) -> None:
        """Call `handler` for accesses to `count` ports from `port` on.

        Raise ConfigError if they are taken.
        """
        if not (port >= 0 and count >= 1 and port + count <= PORTS):
            raise ConfigError(f"ports {port:#x} + {count}: ports are 0 to {PORTS - 1:#x}")
        self._hook("pio", port, count, handler, f"port {port:#x}")

    def on_mmio(self, address: int, length: int, handler: Handler) -> None:
        """Call `handler` for accesses to a range of guest-physical addresses outside memory.

        Raise ConfigError for a range that cannot be, or is taken.
        """
        if not (address >= 0 and length >= 1 and address + length <= 1 << 64):
            raise ConfigError(f"MMIO range {address:#x} + {length:#x}: addresses have 64 bits")
        for region in self._memory.regions:
            if address < region.gpa + region.size and region.gpa < address + length:
                what = "RAM" if region in self._memory.ram else "the swap disk's memory"
                raise ConfigError(
                    f"MMIO range {address:#x} + {length:#x} overlaps {what} at {region.gpa:#x}; "
                    "accesses to it do not exit"
                )
        self._hook("mmio", address, length, handler, f"MMIO range {address:#x} + {length:#x}")

    def on_msr(self, index: int, handler: Handler, count: int = 1) -> None:
        """Call `handler` for RDMSR and WRMSR of `count` MSRs from `index` on.

        The handler may raise `GuestFault` to refuse. x2APIC MSRs (0x800 to 0x8ff) cannot be hooked
        (api.rst, KVM_X86_SET_MSR_FILTER).
        """
        if not (index >= 0 and count >= 1 and index + count <= 1 << 32):
            raise ConfigError(f"MSRs {index:#x} + {count} are out of range")
        if index < 0x900 and index + count > 0x800:
            raise ConfigError("x2APIC MSRs 0x800 to 0x8ff cannot be hooked")
        if len(self._msr_ranges) == MSR_RANGES:
            raise ConfigError(f"KVM filters at most {MSR_RANGES} ranges of MSRs, all are in use")
        self._hook("msr", index, count, handler, f"MSR {index:#x}")
        self.filter_msrs([(index, count)])

    def filter_msrs(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make accesses to these MSRs (first, count) exit to the VMM."""
        with self._lock:
            if not self._msr_ranges:
                self._vm.enable_cap(kvm.KVM_CAP_X86_USER_SPACE_MSR, kvm.KVM_MSR_EXIT_REASON_FILTER)
            self._msr_ranges.extend(ranges)
            self._vm.set_msr_filter([kvm.MsrRange(first, n) for first, n in self._msr_ranges])

    def on_hypercall(self, number: int, handler: HypercallHandler) -> None:
        """Call `handler` when the guest's kernel rings the doorbell with that number.

        Users' own numbers are 0x6000 to 0xffff. Raise ConfigError if it is taken, or if the machine
        is not symbiotic.
        """
        if self.hypercalls is None:
            raise ConfigError("hypercalls need a symbiotic machine")
        if not lib.SYMBIOTIC_HYPERCALL_FIRST <= number <= lib.SYMBIOTIC_HYPERCALL_LAST:
            raise ConfigError(f"hypercall {number:#x}: the numbers are 0x5000 to 0xffff")
        self._owner.check_open()
        if self._claim(self.hypercalls, self.hypercall_handlers, number, 1, handler):
            raise ConfigError(f"hypercall {number:#x}: already taken")

    def add_hypercall_handler(self, handler: HypercallHandler) -> int:
        """Add a handler that C calls by its place in the list, and return that.

        It has no number of its own.
        """
        with self._lock:
            self._owner.check_open()
            self.hypercall_handlers.append(handler)
            return len(self.hypercall_handlers) - 1

    def _hook(self, bus: str, base: int, length: int, handler: Handler, what: str) -> None:
        self._owner.check_open()
        error = self._claim(self._board.bus(bus), self.handlers, base, length, handler)
        if error:
            raise ConfigError(
                f"{what}: {'already taken' if error == -errno.EEXIST else os.strerror(-error)}"
            )

    def _claim(self, handle: Handle, hooks: list[Any], base: int, length: int, hook: Any) -> int:
        """Give the hook a range of the bus, which knows it by its place in the list.

        Return 0 or -errno.

        Raise ConfigError for what cannot be called.
        """
        if not callable(hook):
            raise ConfigError(f"{hook!r} is no hook: it cannot be called")
        with self._lock:
            hooks.append(hook)
            with handle as bus:
                error = int(lib.bus_add_hook(bus, base, length, len(hooks) - 1))
            if error:
                hooks.pop()
        return error
