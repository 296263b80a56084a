# SPDX-License-Identifier: Apache-2.0
"""A `drgn.Program` over a running guest.

drgn walks the guest's page tables itself, in C: it is given physical memory, and the vmcoreinfo
note to begin with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.drgn import vmcoreinfo, vmlinux
from pyvmm.errors import ConfigError, GuestDataError, ImageError, SymcallError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import drgn

    from pyvmm.drgn.physical import PhysicalMemory
    from pyvmm.drgn.vmcoreinfo import VmcoreInfo
    from pyvmm.symbiotic.facts import Facts
    from pyvmm.vm import VM

#: Why a symcall may be out of reach though the guest's memory is not.
UNREACHABLE = ("absent", "disabled", "deadline", "fault", "stopped")


def program(vm: VM, path: str | os.PathLike[str] | None = None) -> drgn.Program:
    """Return a program that reads the memory of `vm`, a Linux guest that has booted, with the types
    of its vmlinux.

    `path` is that vmlinux; without one the kernels that were built here are searched for it. A
    kernel that does not say where it lies, having no driver for symcalls, is looked for in memory.
    The guest runs on meanwhile, so what is read may change; pause it for a still picture. Raise
    GuestDataError for a guest in whose memory there is no kernel, ImageError and ConfigError for
    the vmlinux.
    """
    facts = None
    try:
        facts = vm.facts()
    except SymcallError as error:
        if error.reason not in UNREACHABLE:
            raise
    return make_program(vm.memory, facts, path)


def make_program(
    memory: PhysicalMemory, facts: Facts | None, path: str | os.PathLike[str] | None = None
) -> drgn.Program:
    """Return the same over memory that may be another process's; without `facts` the kernel is
    looked for in it.
    """
    drgn = import_drgn()
    info = vmcoreinfo.of_guest(memory, facts)
    kernel = vmlinux.find(info, str(path) if path is not None else None)
    prog = _program(memory, info)
    try:
        prog.load_debug_info([kernel.path])
    except drgn.MissingDebugInfoError as error:
        raise ImageError(f"drgn finds no types in {kernel.path}: {error}") from error
    return prog


def _program(memory: PhysicalMemory, info: VmcoreInfo) -> drgn.Program:
    library = import_drgn()
    platform = library.Platform(library.Architecture.X86_64)
    bad = (ValueError, OverflowError, LookupError, library.FaultError, library.BadDataError)
    try:
        prog: drgn.Program = library.Program(platform, vmcoreinfo=info.text)
        for region in memory.ram:
            prog.add_memory_segment(region.gpa, region.size, reader(memory), True)
        prog.set_linux_kernel_custom(info.text, True)
    except bad as error:
        raise GuestDataError(f"vmcoreinfo: drgn cannot begin with it: {error}") from error
    return prog


def reader(memory: PhysicalMemory) -> Callable[[int, int, int, bool], bytes]:
    """Return a function as drgn calls it for a segment."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return memory.read(address, count)

    return read


def import_drgn() -> Any:
    """Return the module. Raise ConfigError with the remedy if it is not there."""
    try:
        import drgn
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"drgn cannot be imported ({error}): pip install 'pyvmm-kvm[drgn]'"
        ) from error
    if not hasattr(drgn.Program, "set_linux_kernel_custom"):
        raise ConfigError(f"drgn {drgn.__version__} is too old: pip install 'drgn>=0.3'")
    return drgn
