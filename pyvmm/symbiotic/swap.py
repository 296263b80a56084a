# SPDX-License-Identifier: Apache-2.0
"""A VM's swap disk, as a user sees it: its mode, and what became of the pages in it."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.machine.swapbypass import ANSWERS, SwapBypass, SwapFault, mode_number
from pyvmm.machine.swapstore import SwapStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any, NamedTuple

    from pyvmm.machine.aperture import Aperture
    from pyvmm.machine.machine import Machine
else:
    from pyvmm.record import NamedTuple


__all__ = ["Swap", "SwapFault", "SwapStats"]


class SwapStats(NamedTuple):
    """A swap disk's state and counters, from the VMM.

    `bytes_used` is the host memory (or room of the backing file) that its pages take now. `bytes_in` and `bytes_out`
    passed through the disk's queue to the guest and from it. `attached`: the guest says that it uses the aperture;
    `attach_refused` counts calls by which it could not say so. `offered` counts the faults that it put before the VMM,
    `mapped` those where the VMM wrote the page table entry, `refused` the others, by reason: "mode", "slot", "policy",
    "lookup", "pte", "race".
    """

    size: int
    slots: int
    mode: str
    effective: str
    attached: bool
    bytes_used: int
    bytes_in: int
    bytes_out: int
    attach_refused: int
    offered: int
    mapped: int
    refused: dict[str, int]


class Swap:
    """A swap disk made by `VM.add_swap`: memory of the VMM that the guest sees as a disk and in its address space.

    `size` is in bytes, `slots` in pages of 4 KiB, `serial` is the disk's serial number. On a machine that is not
    symbiotic it is a disk and nothing else.
    """

    def __init__(self, machine: Machine, store: SwapStore, mode: str, serial: str) -> None:
        self._machine = machine
        self._store = store
        self.serial = serial
        self._bypass: SwapBypass | None = None
        self._policy: str | Callable[[SwapFault], bool] = "always"
        self.disk: Any = None
        if machine.symbiosis is not None:
            self._bypass = SwapBypass(machine, store, mode, serial)
        elif mode_number(mode):
            raise ConfigError(f"swap bypass {mode!r} needs a symbiotic machine")

    @property
    def size(self) -> int:
        """Bytes."""
        return self._store.size

    @property
    def slots(self) -> int:
        """Pages that fit into it, the header of the swap area among them."""
        return self._store.slots

    @property
    def backing(self) -> str | os.PathLike[str] | None:
        """The file that holds the pages, None for host memory."""
        return self._store.backing

    @property
    def aperture(self) -> Aperture | None:
        """Where in the guest's address space it lies; None on a machine that is not symbiotic."""
        return self._bypass.aperture if self._bypass is not None else None

    @property
    def mode(self) -> str:
        """The mode that is wanted: "off", "symcall" or "direct". Setting it tells the guest at once.

        Raises ConfigError for another, and where the machine is not symbiotic.
        """
        return self._bypass.mode if self._bypass is not None else "off"

    @mode.setter
    def mode(self, mode: str) -> None:
        if self._bypass is not None:
            self._bypass.set_mode(mode)
        elif mode_number(mode):
            raise ConfigError(f"swap bypass {mode!r} needs a symbiotic machine")

    @property
    def policy(self) -> str | Callable[[SwapFault], bool]:
        """What decides on faults: "always", or a function that is asked about each."""
        return self._policy

    @policy.setter
    def policy(self, policy: str | Callable[[SwapFault], bool]) -> None:
        assert self._bypass is not None
        self._bypass.ask(None if isinstance(policy, str) else policy)
        self._policy = policy

    @property
    def effective(self) -> str:
        """The mode that the guest is told now."""
        return self._bypass.effective if self._bypass is not None else "off"

    @property
    def stats(self) -> SwapStats:
        """What happened so far. Raises StateError once the machine is closed."""
        disk = self.disk.stats()
        counters = self._bypass.counters() if self._bypass is not None else {}
        return SwapStats(
            size=self.size,
            slots=self.slots,
            mode=self.mode,
            effective=self.effective,
            attached=self._bypass is not None and self._bypass.attached,
            bytes_used=self._store.bytes_used,
            bytes_in=disk["bytes_to_guest"],
            bytes_out=disk["bytes_from_guest"],
            attach_refused=counters.get("refused", 0),
            offered=counters.get("offered", 0),
            mapped=counters.get("mapped", 0),
            refused={name: counters.get(name, 0) for name in ANSWERS[1:]},
        )
