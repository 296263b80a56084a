# SPDX-License-Identifier: Apache-2.0
"""One screen about a run that ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyvmm.launch import human

if TYPE_CHECKING:
    from pyvmm.machine.result import Result
    from pyvmm.swap.disk import SwapStats
    from pyvmm.vm import VM


def rows(vm: VM, result: Result) -> list[tuple[str, str]]:
    """Return (name, text) of everything worth a line."""
    from pyvmm import probe
    from pyvmm.machine.footprint import of_machine

    backend, paging = probe.backend()
    use = of_machine(vm.machine)
    total = sum(result.exits.values())
    ended = result.reason + (f", status {result.status}" if result.status is not None else "")
    table = [
        ("KVM back end", f"{backend}, {paging} paging"),
        ("machine", f"{len(vm.vcpus)} vCPU, {vm.memory.size >> 20} MiB"),
        ("ended by", ended),
        ("ran", f"{result.seconds:.2f} s"),
    ]
    if result.boot_seconds is not None:
        table.append(("start to init", f"{result.boot_seconds:.2f} s"))
    table.append(
        (
            "VMM memory",
            f"{use.vmm_rss / 2**20:.1f} MiB beyond the guest's {use.guest_rss >> 20} MiB",
        )
    )
    if vm.swap is not None:
        table += swap_rows(vm.swap.stats)
    table.append(("exits", f"{total}"))
    for name, count in sorted(result.exits.items(), key=lambda item: -item[1]):
        table.append((f"  {name}", f"{count:>9}  {count / max(total, 1):6.1%}"))
    if result.unclaimed:
        table.append(("unanswered accesses", str(result.unclaimed)))
    return table


def swap_rows(stats: SwapStats) -> list[tuple[str, str]]:
    """Return the swap disk, as the VMM saw it."""
    written, read = human.amount(stats.bytes_out), human.amount(stats.bytes_in)
    rows = [
        (
            "swap disk",
            f"{human.amount(stats.bytes_used)} of {human.amount(stats.size)} used at the end",
        ),
        ("  by its queue", f"{written} written, {read} read"),
    ]
    if stats.mode != "off" or stats.offered:
        refused = sum(stats.refused.values())
        faults = f"{stats.offered} faults offered, {stats.mapped} mapped, {refused} refused"
        rows.append((f"  bypass {stats.mode}", faults))
    return rows


def show(vm: VM, result: Result) -> None:
    """Print the screen on stderr."""
    table = rows(vm, result)
    width = max(len(name) for name, _ in table)
    lines = ["", "pyvmm: what happened", *(f"  {name:{width}}  {text}" for name, text in table)]
    print("\n".join(lines), file=sys.stderr)
