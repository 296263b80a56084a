# SPDX-License-Identifier: Apache-2.0
"""SwapBypass of a machine: the store in the guest's address space, what is announced of it, and
what the guest took.
"""

from __future__ import annotations

import os

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine.cpuid import address_bits
from pyvmm.swap import aperture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple

    from pyvmm.machine.handle import Handle
    from pyvmm.machine.hooks import Hypercall
    from pyvmm.machine.machine import Machine
    from pyvmm.swap.store import SwapStore

    #: A policy says whether a page may be used, or how many may move.
    Decide = Callable[["SwapFault | SwapMove"], "bool | int"]
else:
    from pyvmm.record import NamedTuple

#: By number, from SYMBIOTIC_SWAP_OFF on.
MODES = ("off", "symcall", "direct")
SERIAL_BYTES: int = lib.VIRTIO_BLK_SERIAL_SIZE


def mode_number(mode: str) -> int:
    """Return the number of a mode (include/symbiotic.h: SYMBIOTIC_SWAP_OFF and on).

    Raise ConfigError for a word that is no mode.
    """
    if mode not in MODES:
        raise ConfigError(f"swap bypass {mode!r}: choose from {', '.join(MODES)}")
    return MODES.index(mode)


#: By number, from SYMBIOTIC_SWAP_MAPPED on: what became of a fault.
ANSWERS = ("mapped", "mode", "slot", "policy", "lookup", "pte", "race")


class SwapFault(NamedTuple):
    """A fault of a guest's process on a page in the store, for a policy in Python to decide on.

    `cpu` is the index of the vCPU, `vaddr` the address of the page in the process, `slot` the
    number of the page in the `store`.
    """

    cpu: int
    vaddr: int
    slot: int
    store: SwapStore

    @property
    def bytes_used(self) -> int:
        """Bytes that the store takes now.

        Counted when it is asked for, which takes time with the size of the store.
        """
        return self.store.bytes_used


#: Why pages are to move, by number, from SYMBIOTIC_MOVE_AHEAD on.
REASONS = ("ahead", "behind")


class SwapMove(NamedTuple):
    """Pages of processes that a guest with a tier would move to the store, for a policy in Python
    to decide on.

    `cpu` is the index of the vCPU, `pages` how many there are at most. `reason` is "ahead" of being
    swapped out, since memory is short there, or "behind" being swapped in.
    """

    cpu: int
    pages: int
    reason: str
    store: SwapStore

    @property
    def bytes_used(self) -> int:
        """Bytes that the store takes now.

        Counted when it is asked for, which takes time with the size of the store.
        """
        return self.store.bytes_used


class SwapBypass:
    """Offers a store to the guest of a symbiotic machine that has not started, `mode` being the one
    wanted at first.

    `serial` is that of the disk over the store. The guest finds the store at `aperture`, which lies
    in no RAM. Raises ConfigError if the machine is not symbiotic, or has no addresses for it.
    """

    def __init__(self, machine: Machine, store: SwapStore, mode: str, serial: str) -> None:
        if machine.symbiosis is None:
            raise ConfigError("a swap store is offered to a symbiotic machine only")
        wanted = mode_number(mode)
        self._machine = machine
        self._store = store
        self._decide: Decide | None = None
        self._hook = -1
        bits = address_bits(machine.vcpus[0].cpuid)
        self.handle: Handle = machine.symbiosis.bypass
        self.aperture = placed = aperture.place(machine.memory.ram, store.size, bits)
        machine.board.add_window(placed.start, placed.room)
        machine.board.add_window(placed.base, placed.size, store.mapped)
        offer = ffi.new(
            "struct symspy_swap *",
            {"mode": wanted, "base": placed.base, "size": placed.size, "room": placed.room},
        )
        text = serial.encode()[:SERIAL_BYTES]
        ffi.memmove(offer.serial, text, len(text))
        with self.handle as bypass, store.handle as stored:
            error = lib.swapbypass_offer(bypass, stored, offer)
        if error:
            raise ConfigError(f"a swap store: {os.strerror(-error)}")
        for vcpu in machine.vcpus:
            for i in range(vcpu.cpuid.nent):
                if vcpu.cpuid.entries[i].function == lib.SYMBIOTIC_CPUID_LEAF:
                    vcpu.cpuid.entries[i].edx |= lib.SYMBIOTIC_FEATURE_SWAPBYPASS
            vcpu.set_cpuid(vcpu.cpuid)
        self.mode = mode

    def set_mode(self, mode: str) -> None:
        """Set the mode that is wanted from now on; the guest is told at once.

        Raise StateError once it is closed.
        """
        wanted = mode_number(mode)
        with self.handle as bypass:
            lib.swapbypass_want(bypass, wanted)
        self.mode = mode

    def ask(self, decide: Decide | None) -> None:
        """Have the function decide on each fault that the guest offers, and on pages that it would
        move, on the vCPU's thread; None: nobody is asked.

        What it raises ends the run. Raise StateError once it is closed.
        """
        self.handle.check()
        self._decide = decide
        if decide is not None and self._hook < 0:
            self._hook = self._machine.hooks.add_hypercall_handler(self._on_asked)
        with self.handle as bypass:
            lib.swapbypass_ask(bypass, self._hook if decide is not None else lib.SWAPBYPASS_NO_HOOK)

    def _on_asked(self, call: Hypercall) -> None:
        if call.number == lib.SYMBIOTIC_SWAP_MOVE:
            self._on_move(call)
        else:
            self._on_fault(call)

    def _on_move(self, call: Hypercall) -> None:
        pages, reason = call.args[:2]
        move = SwapMove(call.vcpu.index, pages, REASONS[reason - 1], self._store)
        decide = self._decide  # another thread may have changed it since
        allowed = pages if decide is None else decide(move)
        # True is all of them.
        count = pages if allowed is True else min(max(int(allowed), 0), pages)
        error = lib.swapmove_go_on(self.handle.pointer, call.vcpu.handle.pointer, count)
        if error:
            raise HostError(-error, f"{pages} pages to move: {os.strerror(-error)}")

    def _on_fault(self, call: Hypercall) -> None:
        vaddr, slot = call.args[:2]
        fault = SwapFault(call.vcpu.index, vaddr, slot, self._store)
        decide = self._decide  # another thread may have changed it since the fault
        allowed = decide is None or bool(decide(fault))
        error = lib.swapmap_go_on(self.handle.pointer, call.vcpu.handle.pointer, allowed)
        if error:
            raise HostError(-error, f"a fault on slot {slot}: {os.strerror(-error)}")

    @property
    def effective(self) -> str:
        """The mode that the guest is told now. Raise StateError once it is closed."""
        with self.handle as bypass:
            return MODES[lib.swapbypass_mode(bypass)]

    @property
    def attached(self) -> bool:
        """True if the guest says that it uses the aperture. Raise StateError once it is closed."""
        with self.handle as bypass:
            return bool(lib.swapbypass_is_attached(bypass))

    @property
    def tier(self) -> bool:
        """True if pages of the guest's processes move to the store, so that the disk is none.

        Raise StateError once it is closed.
        """
        with self.handle as bypass:
            return bool(lib.swapbypass_is_tier(bypass))

    def counters(self) -> dict[str, int]:
        """Return counts of what the guest asked for so far, by name. Raise StateError once it is
        closed.
        """
        counters = ffi.new("struct swapbypass_counters *")
        with self.handle as bypass:
            lib.swapbypass_count(bypass, counters)
        result = {name: int(getattr(counters, name)) for name, _ in _FIELDS if name != "answers"}
        return result | dict(zip(ANSWERS, map(int, counters.answers), strict=True))


_FIELDS = ffi.typeof("struct swapbypass_counters").fields
