# SPDX-License-Identifier: Apache-2.0
"""The part of `pyvmm demo` about memory: one program in four guests, as a table and as bars."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm import logbars
from pyvmm.demo.swapload import DISK, MIB, Arm, Load, measure
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest.cache import DEFAULT_LINUX
from pyvmm.logbars import Bar, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.guest.cache import Guest

    #: Of each arm: the figures that are shown, or why there are none.
    Found = dict[str, dict[str, float] | str]

GUEST_MIB, SWAP_MIB = 256, 512
LOAD = Load(memory=400, passes=3, seconds=2, touched=8)
#: Of one guest; in the lab the slowest takes about 40, and with Debian's kernel 300 on a machine that is busy.
TIMEOUT = 900


def arms_of(way: str) -> tuple[Arm, ...]:
    """Return the guests, for a kernel that uses the memory of the swap disk in that way."""
    return (
        Arm(f"{GUEST_MIB + SWAP_MIB} MiB, no need to swap", GUEST_MIB + SWAP_MIB, "none"),
        Arm(f"{GUEST_MIB} MiB, {way} direct", GUEST_MIB, "direct"),
        Arm(f"{GUEST_MIB} MiB, {way} by symcalls", GUEST_MIB, "symcall"),
        Arm(f"{GUEST_MIB} MiB, stock swap", GUEST_MIB, DISK),
    )


#: Of the patched kernel, and of one with the guest driver as a module.
ARMS, TIER_ARMS = arms_of("bypass"), arms_of("tier")
#: The figures of the program that are shown.
COLUMNS = {"at random": "last", "in order": "sequential", "first touch": "swapped"}

INTRODUCTION = f"""
A program works on {LOAD.memory} MiB, in guests of one CPU. All swap to a disk that is the host's memory: stock swap
reads a page back when it is needed, the bypass uses it where it lies. An operation checks a page and writes to it."""
TIER_INTRODUCTION = f"""
A program works on {LOAD.memory} MiB, in guests of one CPU with Debian's own kernel. The swap disk is the host's memory.
Stock swap writes a page there and reads it back when it is needed. With the guest driver as a module that memory is a
tier: pages move there before they would be swapped out, and are used where they lie. An operation checks a page and
writes to it. The patched kernel, which is compiled first: pyvmm demo --linux {DEFAULT_LINUX}"""
LEGEND = f"""\
at random: pass {LOAD.passes} over all pages, at most {LOAD.seconds:g} s of it. first touch: of a page that was
swapped out, with room for it in RAM."""


def seconds_of(said: dict[str, Any]) -> dict[str, float]:
    """Return the figures that are shown, in seconds; a guest that does not swap has no first touch
    of that kind.
    """
    figures = {**said, "last": said["passes"][-1]}
    return {name: figures[key] / 1e9 for name, key in COLUMNS.items() if figures[key]}


def collect(guest: Guest, arms: tuple[Arm, ...]) -> Found:
    """Return each arm's figures, or why it has none."""
    found: Found = {}
    for number, arm in enumerate(arms, 1):
        print(f"demo: {number} of {len(arms)}: {arm.name}", file=sys.stderr, flush=True)
        try:
            found[arm.name] = seconds_of(measure(guest, arm, SWAP_MIB * MIB, LOAD, TIMEOUT))
        except (ConfigError, HostError) as error:
            found[arm.name] = str(error).splitlines()[0]
    return found


def table(found: Found, base: str) -> str:
    """Return a line for each arm, with how many times longer than in the base an operation at
    random took.
    """
    names = max(map(len, found))
    lines = [" ".join([f"{'':{names}}", *(f"{name:>12}" for name in COLUMNS), f"{'to RAM':>10}"])]
    whole = found.get(base)
    for name, figures in found.items():
        if isinstance(figures, str):
            lines.append(f"{name:{names}} not measured: {figures}")
            continue
        cells = [time_text(figures[c]) if c in figures else "-" for c in COLUMNS]
        ratio = "-"
        if isinstance(whole, dict):
            ratio = f"{figures['at random'] / whole['at random']:.3g} x"
        lines.append(" ".join([f"{name:{names}}", *(f"{c:>12}" for c in cells), f"{ratio:>10}"]))
    return "\n".join(lines)


def bars(found: Found, column: str) -> list[Bar]:
    """Return bars for those of the arms that have the figure."""
    return [
        Bar(name, figures[column])
        for name, figures in found.items()
        if isinstance(figures, dict) and column in figures
    ]


def picture(path: str, found: Found) -> str:
    """Write the PNG, if that can be done here. Return what to say of it."""
    panels: dict[str, Sequence[Bar]] = {
        column: made for column in COLUMNS if (made := bars(found, column))
    }
    if not panels:
        return ""
    if not logbars.available():
        return "no picture: matplotlib is not installed (pip install 'pyvmm-kvm[bench]')"
    title = f"{LOAD.memory} MiB in a guest of {GUEST_MIB} MiB: time of an operation"
    try:
        logbars.picture(path, title, panels)
    except OSError as error:
        return f"no picture: {error}"
    return f"the same as a picture: {path}"


def show(guest: Guest, path: str, *, tier: bool) -> bool:
    """Show all of it. Return whether every arm was measured."""
    print(TIER_INTRODUCTION if tier else INTRODUCTION, flush=True)
    arms = TIER_ARMS if tier else ARMS
    found = collect(guest, arms)
    print(f"\n{table(found, arms[0].name)}\n{LEGEND}")
    if made := bars(found, "at random"):
        print(f"\nat random\n{logbars.text(made)}")
    print(picture(path, found))
    return not any(isinstance(figures, str) for figures in found.values())
