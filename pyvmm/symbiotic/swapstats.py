# SPDX-License-Identifier: Apache-2.0
"""The guest's side of a swap disk: what its kernel says of it, and handing pages back."""

from __future__ import annotations

from pyvmm._core import lib
from pyvmm.errors import ConfigError
from pyvmm.symbiotic.answer import ask, structure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.machine.symcall import Raw, Results
else:
    from pyvmm.record import NamedTuple

#: Bytes of the shortest structure: its size and flags.
_HEAD = 8
#: Of the first fields of `GuestSwap`.
_FLAGS = (
    lib.SYMBIOTIC_SWAP_ATTACHED,
    lib.SYMBIOTIC_SWAP_ON,
    lib.SYMBIOTIC_SWAP_EVICTING,
    lib.SYMBIOTIC_SWAP_TIER,
)


class GuestSwap(NamedTuple):
    """A swap disk as the guest's kernel sees it; pages of 4 KiB. What an older kernel does not know
    is 0.

    `mapped`: it took the aperture; `on`: a swap area on the disk is in use; `evicting`: it is
    handing pages back. `slots` of the area and those `used`; `adopted` are used where they lie now,
    `adopted_total` since its boot, of which the VMM `mapped_by_vmm`. `offered` faults could have
    been; `refused_shared` for an entry that processes share, `refused_mode` by the mode,
    `refused_vmm` by the VMM, and for which of its reasons (`refused_reasons`, by number);
    `lost_races` found the fault served by then. `freed` adopted pages are gone with their
    processes, `evicted` went back to RAM, `evict_failed` could not. `pages_out` and `pages_in` were
    copied without the disk's queue; `zero_filled` were known to be zero.

    `tier`: pages of processes move there (docs/swapbypass.md, "A kernel that nobody rebuilt"). Then
    `used` and `adopted` are the pages there, `adopted_total` all that moved, `moved_ahead` of them
    while memory was short and `moved_behind` after they were swapped in; `move_failed` could not.
    `offered` swap-ins were seen, `follow_missed` of them not noted. `discarded` slots went back to
    the host. `mover_ns` is how long all of that took.
    """

    mapped: bool
    on: bool
    evicting: bool
    tier: bool
    slots: int
    used: int
    adopted: int
    offered: int
    adopted_total: int
    mapped_by_vmm: int
    refused_shared: int
    refused_mode: int
    refused_vmm: int
    refused_reasons: tuple[int, ...]
    lost_races: int
    freed: int
    evicted: int
    evict_failed: int
    pages_out: int
    pages_in: int
    zero_filled: int
    moved_ahead: int
    moved_behind: int
    move_failed: int
    follow_missed: int
    discarded: int
    mover_ns: int


def parse(results: Results) -> GuestSwap:
    """Return the answer to SWAP_STATS, a `struct symbiotic_swap_stats`.

    Raise GuestDataError for a size that cannot be.
    """
    said = structure("symbiotic_swap_stats", results, "swap statistics", _HEAD)
    mapped, on, evicting, tier = (bool(said.flags & flag) for flag in _FLAGS)
    # From there on the names are those of the structure.
    counts = {name: getattr(said, name) for name in GuestSwap._fields[len(_FLAGS) :]}
    counts["refused_reasons"] = tuple(said.refused_reasons)
    return GuestSwap(mapped, on, evicting, tier, **counts)


def swap_stats(raw: Raw) -> GuestSwap:
    """Ask the guest's kernel about its swap disk.

    Raise SymcallError with code ENODEV where it took no aperture, GuestDataError if the answer is
    none.
    """
    return parse(ask(raw, lib.SYMCALL_SWAP_STATS, want=lib.SYMBIOTIC_DATA_SIZE))


def swap_evict(raw: Raw, pages: int) -> int:
    """Ask the guest to take up to so many adopted pages into its RAM, after the call.

    Return the number of adopted pages now. The guest stops where it has no free memory. Raise
    SymcallError with code EBUSY while it is at that already, ENODEV where it took no aperture;
    ConfigError for a number that cannot be.
    """
    if not 0 < pages < 1 << 64:
        raise ConfigError(f"{pages} pages to hand back: there is 1 and more")
    return ask(raw, lib.SYMCALL_SWAP_EVICT, pages).rbx
