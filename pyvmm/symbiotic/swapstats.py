# SPDX-License-Identifier: Apache-2.0
"""The guest's side of a swap disk: what its kernel says of it, and handing pages back."""

from __future__ import annotations

import struct

from pyvmm.errors import ConfigError, GuestDataError
from pyvmm.symbiotic import abi
from pyvmm.symbiotic.answer import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    from pyvmm.machine.symcall import Raw, Results
else:
    from pyvmm.record import NamedTuple

HEAD = struct.Struct("<II")
APERTURE_MAPPED = 1 << 0
AREA_ON = 1 << 1
EVICTING = 1 << 2
#: Of the numbers after the head: which are the counts by reason.
REASONS_AT, REASONS = 9, 8
_WORDS = 24
#: Bytes of the structure of this version.
SIZE = HEAD.size + 8 * _WORDS


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
    """

    mapped: bool
    on: bool
    evicting: bool
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


def parse(results: Results) -> GuestSwap:
    """Return the answer to SWAP_STATS. Raise GuestDataError for a size that cannot be."""
    size, data = results.rbx, results.data
    if not HEAD.size <= size <= min(abi.PAGE_DATA_SIZE, len(data)):
        raise GuestDataError(
            f"swap statistics: the guest answered with {size} bytes; there should be {HEAD.size}"
            f" to {abi.PAGE_DATA_SIZE}"
        )
    inner, flags = HEAD.unpack_from(data)
    if not HEAD.size <= inner <= size:
        raise GuestDataError(f"swap statistics: the structure says it has {inner} of {size} bytes")
    count = min((inner - HEAD.size) // 8, _WORDS)
    words = list(struct.unpack_from(f"<{count}Q", data, HEAD.size)) + [0] * (_WORDS - count)
    end = REASONS_AT + REASONS
    fields: list[Any] = [*words[:REASONS_AT], tuple(words[REASONS_AT:end]), *words[end:]]
    fields[:0] = (bool(flags & bit) for bit in (APERTURE_MAPPED, AREA_ON, EVICTING))
    return GuestSwap(*fields)


def swap_stats(raw: Raw) -> GuestSwap:
    """Ask the guest's kernel about its swap disk.

    Raise SymcallError with code ENODEV where it took no aperture.

    Raise GuestDataError if the answer is none.
    """
    return parse(ask(raw, abi.SYMCALL_SWAP_STATS, want=abi.PAGE_DATA_SIZE))


def swap_evict(raw: Raw, pages: int) -> int:
    """Ask the guest to take up to so many adopted pages into its RAM, after the call.

    Return how many there are now.

    It stops where it has no free memory. SymcallError with code EBUSY while it is at that already,
    ENODEV as above. Raise ConfigError for a number that cannot be.
    """
    if not 0 < pages < 1 << 64:
        raise ConfigError(f"{pages} pages to hand back: there is 1 and more")
    return ask(raw, abi.SYMCALL_SWAP_EVICT, pages).rbx
