# SPDX-License-Identifier: Apache-2.0
"""What the tests of guests and labs need, made or fetched before they begin: in labs there is no network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests import kernels
from tests.process import Process, at_a_time

if TYPE_CHECKING:
    from collections.abc import Sequence


def build_guests(stages: set[str], *, rest: bool = False) -> None:
    """Everything the Linux guests and the labs need, from the cache, or fetched or built now."""
    from bench import workloads
    from pyvmm.guest import cache
    from pyvmm.guest.program import program as packaged
    from pyvmm.guest.stock import stock
    from pyvmm.lab import bochs, emulator
    from tests import example, guest64
    from tests.lab.linux import PROGRAMS, program
    from tests.lab.swapguest import torture

    emulated_vtx = bool({"host", "vmx"} & stages)
    build_kernels((kernels.DEFAULT, *(kernels.OTHERS if rest else ())), emulated_vtx)
    for linux in cache.VERSIONS:
        stock(linux)
        if rest or linux == kernels.DEFAULT:
            stock(linux, symbiotic=True)
    for name in example.NAMES:
        example.cached(kernels.DEFAULT, name)
    emulator.find()
    torture()
    for source in PROGRAMS.glob("*.c"):
        program(source.stem)
    packaged("swapload")
    if rest:
        workloads.prepare()
    if not emulated_vtx:
        return
    bochs.find()
    for sources in guest64.GUESTS:  # the lab with VT-x has no compiler
        guest64.build(*sources)


def build_kernels(guests: Sequence[str], emulated_vtx: bool) -> None:
    """Two at a time, as the beginning and the end of each build are the work of one CPU."""
    build = [sys.executable, "-m", "pyvmm", "guest", "build", "--linux"]
    processes = [Process(f"guest {linux}", [*build, linux]) for linux in guests]
    if emulated_vtx:
        code = "from pyvmm.lab import vmx; vmx.prepared()"
        processes.insert(1, Process("the VT-x lab", [sys.executable, "-c", code]))
    if any(end.code for end in at_a_time(2, processes)):
        sys.exit("tests: a kernel could not be built, as said above")
