# SPDX-License-Identifier: Apache-2.0
"""The fates of faults on swapped pages, as the guest's kernel and the VMM count them. They are
taken from the answer to `swap-stats` (docs/control.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: The VMM's reasons for a refused fault, by its own words. The guest counts them by number, in this order from 1.
REASONS = ("mode", "slot", "policy", "lookup", "pte", "race")
#: Of the words; the others are refusals.
TOTALS = ("offered", "bypassed")


class Fault(NamedTuple):
    """The fate of some faults, as a word, and the counts of both sides. A side that does not count
    it has None.
    """

    word: str
    guest: int | None
    vmm: int | None


def by_guest(guest: dict[str, Any] | None) -> dict[str, int]:
    """Return the guest's counts by word; none for a guest that cannot be asked."""
    if guest is None:
        return {}
    reasons = guest["refused_reasons"]
    refused = dict(zip(REASONS, reasons[1:], strict=False))
    return {
        "offered": guest["offered"],
        "bypassed": guest["adopted_total"],
        "not its own": reasons[0],
        "shared": guest["refused_shared"],
        **refused,
        "mode": guest["refused_mode"] + refused["mode"],
        "overtaken": guest["lost_races"],
    }


def by_vmm(said: dict[str, Any]) -> dict[str, int]:
    """Return the VMM's counts by word."""
    return {"offered": said["offered"], "bypassed": said["mapped"], **said["refused"]}


def faults(said: dict[str, Any]) -> list[Fault]:
    """Return the faults by what became of them; refusals that neither side has seen are left out."""
    guest, vmm = by_guest(said["guest"]), by_vmm(said)
    words = dict.fromkeys((*vmm, *guest))
    found = [Fault(word, guest.get(word), vmm.get(word)) for word in words]
    return [fault for fault in found if fault.word in TOTALS or fault.guest or fault.vmm]
