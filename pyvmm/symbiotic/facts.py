# SPDX-License-Identifier: Apache-2.0
"""Facts about a guest's kernel: what it is and where it lies."""

from __future__ import annotations

import struct

from pyvmm.symbiotic.answer import known, text, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.machine.symcall import Results
else:
    from pyvmm.record import NamedTuple

#: size, flags; KASLR offset, phys_base, page offset, vmcoreinfo: address, size; CPUs, per-CPU offset, CPU, levels; ...
LAYOUT = struct.Struct("<IIQQQQIIQIIQ64s64s")

OUT_OF_TREE = 1 << 0


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
    """Raise GuestDataError if the answer is none."""
    fields = unpack(LAYOUT, results, "kernel facts")
    _, flags, kaslr_offset, phys_base, page_offset, vmcoreinfo_gpa, vmcoreinfo_size, *rest = fields
    possible_cpus, percpu_base, cpu, levels, kernel_pgd_gpa, release, version = rest
    return Facts(
        release=text(release),
        version=text(version),
        out_of_tree=bool(flags & OUT_OF_TREE),
        kaslr_offset=known(kaslr_offset),
        phys_base=known(phys_base),
        page_offset=known(page_offset),
        vmcoreinfo_gpa=known(vmcoreinfo_gpa),
        vmcoreinfo_size=vmcoreinfo_size,
        kernel_pgd_gpa=known(kernel_pgd_gpa),
        page_table_levels=levels,
        percpu_base=known(percpu_base),
        cpu=cpu,
        possible_cpus=possible_cpus,
    )
