# SPDX-License-Identifier: Apache-2.0
"""Facts about a guest's kernel: what it is and where it lies."""

from __future__ import annotations

from pyvmm._core import ffi, lib
from pyvmm.symbiotic.answer import known, structure, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.machine.symcall import Results
else:
    from pyvmm.record import NamedTuple


class Facts(NamedTuple):
    """The guest kernel's own account of itself.

    None is what it cannot say, as a module cannot say everything.

    `release` and `version` are those of uname(2). `kaslr_offset` is added to every address of its
    vmlinux; `phys_base` is where the address of the kernel's first byte less its link address lies
    in guest-physical memory; `page_offset` is the virtual address of guest-physical 0.
    `vmcoreinfo_gpa` and `vmcoreinfo_size` (bytes) are where the note for crash tools lies,
    `kernel_pgd_gpa` the root page table, of `page_table_levels`. `percpu_base` is the per-CPU
    offset of the CPU `cpu` that answered, of `possible_cpus`. `out_of_tree`: a module answered, not
    the kernel's own driver.
    """

    release: str
    version: str
    out_of_tree: bool
    kaslr_offset: int | None
    phys_base: int | None
    page_offset: int | None
    vmcoreinfo_gpa: int | None
    vmcoreinfo_size: int
    kernel_pgd_gpa: int | None
    page_table_levels: int
    percpu_base: int | None
    cpu: int
    possible_cpus: int


def parse(results: Results) -> Facts:
    """Return the answer to FACTS, a `struct symbiotic_facts`.

    Raise GuestDataError if it is none.
    """
    said = structure("symbiotic_facts", results, "kernel facts")
    return Facts(
        release=text(bytes(ffi.buffer(said.release))),
        version=text(bytes(ffi.buffer(said.version))),
        out_of_tree=bool(said.flags & lib.SYMBIOTIC_FACTS_MODULE),
        kaslr_offset=known(said.kaslr_offset),
        phys_base=known(said.phys_base),
        page_offset=known(said.page_offset),
        vmcoreinfo_gpa=known(said.vmcoreinfo_gpa),
        vmcoreinfo_size=said.vmcoreinfo_size,
        kernel_pgd_gpa=known(said.kernel_pgd_gpa),
        page_table_levels=said.page_table_levels,
        percpu_base=known(said.percpu_base),
        cpu=said.cpu,
        possible_cpus=said.possible_cpus,
    )
