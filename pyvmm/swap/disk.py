# SPDX-License-Identifier: Apache-2.0
"""A VM's swap disk, as a user sees it: its mode, its policy, and what became of the pages in it."""

from __future__ import annotations

from pyvmm.config import FUNCTION, SwapConfig
from pyvmm.devices.virtio_blk import VirtioBlk, encode_serial
from pyvmm.errors import ConfigError, GuestDataError, LimitError, StateError, SymcallError
from pyvmm.machine.question import Question
from pyvmm.swap.bypass import ANSWERS, SwapBypass, SwapFault, SwapMove, mode_number
from pyvmm.swap.evictor import Evictor
from pyvmm.swap.governor import HostMemory, SwapGovernor, policy_number
from pyvmm.swap.store import SwapStore
from pyvmm.symbiotic.swapstats import GuestSwap, swap_evict, swap_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.machine.machine import Machine
    from pyvmm.swap.aperture import Aperture
    from pyvmm.swap.bypass import Decide

    Policy = str | Decide
else:
    from pyvmm.record import NamedTuple

__all__ = ["GuestSwap", "HostMemory", "Swap", "SwapFault", "SwapMove", "SwapStats"]


class SwapStats(NamedTuple):
    """A swap disk's state and counters: the VMM's own, and in `guest` what the guest says.

    That is None if it cannot be asked, did not attach, or says what cannot be (`vm.symcall(0,
    "swap_stats")` says which). `mode`, `effective` and `allowed`: what is wanted, what the guest is
    told, and what the policy says now, which for "pressure" is whether the host has memory to
    spare. `host` is the host's memory as the policy last saw it, None on a machine that is not
    symbiotic. `bytes_used` is what the pages take now of host memory, or of the backing file;
    `bytes_in` and `bytes_out` passed through the disk's queue to the guest and from it. `attached`:
    the guest says that it uses the aperture; `attach_refused` counts calls by which it could not
    say so. `offered` counts the faults that it put before the VMM, `mapped` those where the VMM
    wrote the page table entry, `refused` the others, by reason: "mode", "slot", "policy", "lookup",
    "pte", "race". `evictions` counts the times that the policy had the guest hand pages back.

    `tier`: pages of the guest's processes move to the store, and the disk is closed meanwhile. Then
    `discarded` slots were given back by the guest, and in mode "symcall" it `asked` for so many
    pages to move, of which so many were `granted`.
    """

    size: int
    slots: int
    mode: str
    effective: str
    allowed: bool
    host: HostMemory | None
    bytes_used: int
    bytes_in: int
    bytes_out: int
    attached: bool
    tier: bool
    attach_refused: int
    offered: int
    mapped: int
    refused: dict[str, int]
    evictions: int
    discarded: int
    asked: int
    granted: int
    guest: GuestSwap | None


class SwapDisk(VirtioBlk):
    """The disk of a `Swap`: its record says what that is made of."""

    def __init__(self, machine: Machine, swap: Swap) -> None:
        self._swap = swap
        super().__init__(machine, swap.store.disk(), serial=swap.serial)

    @property
    def config(self) -> SwapConfig:
        """The record from which a swap disk like this one can be made."""
        return self._swap.config


class Swap:
    """A swap disk made by `VM.add_swap`: memory of the VMM that the guest sees as a disk and in its
    address space.

    `config` is what it is made of, by `decide` instead of a policy's name where that is a function.
    `size` is in bytes, `slots` in pages of 4 KiB, `serial` is the disk's serial number, `store` has
    the pages. On a machine that is not symbiotic it is a disk and nothing else. The machine owns
    all of it.
    """

    def __init__(
        self,
        machine: Machine,
        config: SwapConfig,
        decide: Decide | None = None,
    ) -> None:
        self._machine = machine
        self.serial = config.serial
        self._bypass: SwapBypass | None = None
        self._policy: Policy = config.policy if decide is None else decide
        self._quota = config.quota
        if not encode_serial(config.serial):
            raise ConfigError("a swap disk needs a serial number: the guest finds it by that")
        if decide is None:
            policy_number(config.policy, config.quota)
        if mode_number(config.bypass) and machine.symbiosis is None:
            raise ConfigError(f"swap bypass {config.bypass!r} needs a symbiotic machine")
        self.store = machine.own(SwapStore(config.size, config.backing))
        if machine.symbiosis is not None:
            self._bypass = SwapBypass(machine, self.store, config.bypass, config.serial)
            self._governor = machine.own(SwapGovernor(self._bypass, self.store))
            self._set_policy(self._policy)
            self._evictor = machine.own(Evictor(machine, self._governor))
        self.disk = SwapDisk(machine, self)
        self.store.watch(self.disk)

    @property
    def config(self) -> SwapConfig:
        """The record from which a swap disk like this one can be made, with the mode and policy
        that it has now.
        """
        policy = self._policy if isinstance(self._policy, str) else FUNCTION
        return SwapConfig(
            self.size, self.mode, self.serial, self.store.backing, policy, self._quota
        )

    @property
    def size(self) -> int:
        """Bytes that the guest can swap to it."""
        return self.store.size

    @property
    def slots(self) -> int:
        """Pages that fit into it, the header of the swap area among them."""
        return self.store.slots

    @property
    def bytes_used(self) -> int:
        """Bytes that the pages take now of host memory, or of the backing file."""
        return self.store.bytes_used

    @property
    def backing(self) -> str | None:
        """The file that holds the pages, None for host memory."""
        return self.store.backing

    @property
    def aperture(self) -> Aperture | None:
        """Where in the guest's address space it lies; None on a machine that is not symbiotic."""
        return self._bypass.aperture if self._bypass is not None else None

    def _symbiotic(self) -> SwapBypass:
        if self._bypass is None:
            raise ConfigError("a swap disk of a machine that is not symbiotic is only a disk")
        return self._bypass

    @property
    def mode(self) -> str:
        """The mode that is wanted: "off", "symcall" or "direct".

        Setting it tells the guest at once.

        Raise ConfigError for another, and where the machine is not symbiotic.
        """
        return self._bypass.mode if self._bypass is not None else "off"

    @mode.setter
    def mode(self, mode: str) -> None:
        self._symbiotic().set_mode(mode)

    @property
    def effective(self) -> str:
        """The mode that the guest is told now: "off" with "never", and above a quota."""
        return self._bypass.effective if self._bypass is not None else "off"

    @property
    def policy(self) -> Policy:
        """The policy by which the guest may use pages where they lie: "pressure", "quota",
        "always", "never", or a function.

        "pressure": always, but the store grows by small pages while the host is short of memory.
        "quota": while the store takes no more than `quota` bytes. A function gets a `SwapFault` for
        each fault, on the vCPU's thread, and returns whether the page may be used; of a guest with
        a tier it gets a `SwapMove`, and returns that or how many pages may move. What it raises
        ends the run. The guest is told "symcall" where "direct" is wanted.

        May be set at any time. Raise ConfigError for what is no policy.
        """
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._symbiotic()
        self._set_policy(policy)

    @property
    def quota(self) -> int | None:
        """Bytes, for the policy "quota"; may be set at any time."""
        return self._quota

    @quota.setter
    def quota(self, quota: int | None) -> None:
        before, self._quota = self._quota, quota
        try:
            if self._bypass is not None:
                self._set_policy(self._policy)
        except ConfigError:
            self._quota = before
            raise

    def _set_policy(self, policy: Policy) -> None:
        bypass = self._symbiotic()
        if not callable(policy):
            self._governor.set(policy, self._quota)
            bypass.ask(None)
        else:
            bypass.ask(policy)
            self._governor.set("always", None)
        self._policy = policy

    def evict(self, pages: int | None = None, question: Question | None = None) -> int:
        """Ask the guest to take pages back into its RAM, by default all: it goes on after the call,
        as memory allows.

        Return the number of pages that it uses where they lie now. Raise SymcallError, with code
        EBUSY while it is at that already, and as `VM.symcall`; LimitError if it does not answer in
        10 s.
        """
        raw = self._machine.raw(0, question or Question())
        return swap_evict(raw, self.slots if pages is None else pages)

    @property
    def stats(self) -> SwapStats:
        """State and counters so far. Raise StateError once the machine is closed."""
        return self.look(Question())

    def look(self, question: Question) -> SwapStats:
        """Return the same as `stats`, where the guest has as long as the question to say its part."""
        disk = self.disk.stats()
        counters: dict[str, int] = {}
        allowed, host, attached = False, None, False
        if self._bypass is not None:
            counters = self._bypass.counters()
            allowed, host = self._governor.look()
            attached = self._bypass.attached
        return SwapStats(
            size=self.size,
            slots=self.slots,
            mode=self.mode,
            effective=self.effective,
            allowed=allowed,
            host=host,
            bytes_used=self.bytes_used,
            bytes_in=disk["bytes_to_guest"],
            bytes_out=disk["bytes_from_guest"],
            attached=attached,
            tier=attached and self._bypass is not None and self._bypass.tier,
            attach_refused=counters.get("refused", 0),
            offered=counters.get("offered", 0),
            mapped=counters.get("mapped", 0),
            refused={name: counters.get(name, 0) for name in ANSWERS[1:]},
            evictions=self._evictor.asked if self._bypass is not None else 0,
            discarded=counters.get("discarded", 0),
            asked=counters.get("asked", 0),
            granted=counters.get("granted", 0),
            guest=self._ask_guest(question),
        )

    def _ask_guest(self, question: Question) -> GuestSwap | None:
        if self._bypass is None or not self._bypass.attached:
            return None
        try:
            return swap_stats(self._machine.raw(0, question))
        except (SymcallError, StateError, GuestDataError, LimitError):
            return None
