# SPDX-License-Identifier: Apache-2.0
"""What guests and labs need, made or fetched before tests begin: there is no network in labs."""

from __future__ import annotations

import compileall
import os
import sys
from pathlib import Path

from tests.runner.process import Process
from tests.support import kernels
from tests.support.tree import ROOT


def builds(stages: set[str], *, rest: bool = False) -> list[Process]:
    """Return the builds of what the cache lacks: kernels first, by half of the CPUs each."""
    jobs = str(max(1, (os.cpu_count() or 1) // 2))
    guests = (*(reversed(kernels.OTHERS) if rest else ()), kernels.DEFAULT)
    build = [sys.executable, "-m", "pyvmm", "guest", "build", "--jobs", jobs, "--linux"]
    processes = [Process(f"guest {linux}", [*build, linux]) for linux in guests]
    if emulates_vtx(stages):
        code = f"from pyvmm.lab import outerkernel, vmx; outerkernel.build({jobs}); vmx.prepared()"
        processes.append(Process("the VT-x lab", [sys.executable, "-c", code]))
    code = f"from tests.runner import needs; needs.prepare({emulates_vtx(stages)}, {rest})"
    return [*processes, Process("what else is needed", [sys.executable, "-c", code])]


def emulates_vtx(stages: set[str]) -> bool:
    """Whether they need the lab with VT-x."""
    return bool({"lab", "vmx"} & stages)


def prepare(emulated_vtx: bool, rest: bool) -> None:
    """Fetch or build everything that guests and labs need beside these kernels."""
    from bench.suites import workloads
    from pyvmm.demo import swapload
    from pyvmm.guest.stock import stock
    from pyvmm.lab import bochs, emulator, image
    from tests.support import example, guest64, selftests
    from tests.support.linux import PROGRAMS, program
    from tests.support.swapguest import torture

    for folder in ("pyvmm", "bench", "tests"):
        compile_sources(Path(ROOT, folder))
    for linux in kernels.DEBIAN if rest else (kernels.DEFAULT, kernels.CLOUD, kernels.OLD):
        stock(linux)
        if rest or linux == kernels.DEFAULT:
            stock(linux, symbiotic=True)
    for name in example.NAMES:
        example.cached(kernels.DEFAULT, name)
    emulator.find()
    image.image()
    torture()
    for source in PROGRAMS.glob("*.c"):
        program(source.stem)
    swapload.program()
    for linux in (kernels.DEFAULT, kernels.OLD) if rest else (kernels.DEFAULT,):
        selftests.swap_bypass(linux)
    if rest:
        workloads.prepare()
    if emulated_vtx:
        bochs.find()
        for sources in guest64.GUESTS:  # the lab with VT-x has no compiler
            guest64.build(*sources)


def compile_sources(folder: Path) -> None:
    """Compile the Python of a folder that labs share.

    Each lab would do it, and one could import a file that another has written in part: 9p has no
    atomic replacement.
    """
    if not compileall.compile_dir(folder, quiet=1):
        raise SystemExit(f"tests: {folder} does not compile")
