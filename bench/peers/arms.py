# SPDX-License-Identifier: Apache-2.0
"""Arms of the suites on memory: what a guest that wants more than its RAM is given instead, by the names shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bench.rounds import Measure

RAM = "RAM"
QEMU = "stock, QEMU"
STOCK = "stock, pyvmm"
UNPATCHED = "unpatched kernel"
OFF = "bypass off"
SYMCALL = "symcall"
DIRECT = "direct"
SWITCHING = "modes by turns"
BALLOON = "balloon, QEMU"
HOTPLUG = "virtio-mem, QEMU"


def chosen(made: Mapping[str, Measure], names: Sequence[str]) -> dict[str, Measure]:
    """Return the arms asked for; all if none is."""
    unknown = set(names) - set(made)
    if unknown:
        raise SystemExit(f"bench: no arm {', '.join(unknown)}; there are {', '.join(made)}")
    return {name: made[name] for name in names or made}


def base_of(made: Collection[str]) -> str:
    """Return what the others are compared with: stock swap, if it is there."""
    return STOCK if STOCK in made else next(iter(made))
