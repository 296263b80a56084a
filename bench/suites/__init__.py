# SPDX-License-Identifier: Apache-2.0
"""What can be measured, and on which KVM."""

from __future__ import annotations

from typing import NamedTuple


class Suite(NamedTuple):
    """`linux`: its guests are Linux, so that it wants a KVM that boots that in useful time; else any will do."""

    text: str
    linux: bool


SUITES = {
    "exits": Suite("an exit to user space: bare C loop, C, Python hook", False),
    "symcall": Suite("a call into the guest: C and Python, from CPL 0 and 3, its steps", False),
    "boot": Suite("launch to init and to exit, against QEMU microvm and kvmtool", True),
    "footprint": Suite(
        "idle guests, one and several: start, memory, CPU, against QEMU microvm", True
    ),
    "disk": Suite("virtio-blk against QEMU with an I/O thread", True),
    "net": Suite("virtio-net on a tap against QEMU: streams both ways, round trips", True),
    "swap": Suite("SwapBypass against RAM, stock swap, zram, zswap and a balloon", True),
    "curve": Suite("the same for memory from a quarter of the RAM to four times it", True),
    "workloads": Suite("GUPS, STREAM, a sort, Redis, SQLite and stress-ng short of memory", True),
}
