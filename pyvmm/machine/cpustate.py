# SPDX-License-Identifier: Apache-2.0
"""The registers a loaded kernel starts with: what the boot layer hands to the first vCPU."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyvmm.record import NamedTuple


#: Selectors of the boot GDT (Documentation/arch/x86/boot.rst: __BOOT_CS and __BOOT_DS).
BOOT_CS = 0x10
BOOT_DS = 0x18


class CpuState(NamedTuple):
    """The state of a vCPU before its first instruction; what is not named here is as after INIT.

    ``mode`` is one of

    * ``"long"``: 64-bit mode, paging on with ``cr3``; CS is `BOOT_CS`, the data segments `BOOT_DS`;
    * ``"protected"``: 32-bit flat segments, paging off; the same selectors;
    * ``"real"``: every segment has base and selector 0, so IP is ``rip``.

    Interrupts are off in all three. ``gdt_base`` and ``gdt_limit`` (bytes - 1) describe a GDT that
    already lies in guest memory and holds the two selectors; both are 0 in real mode. Addresses are
    guest-physical.
    """

    mode: str
    rip: int
    rsp: int = 0
    rsi: int = 0
    rbx: int = 0
    rdi: int = 0
    rax: int = 0
    cr3: int = 0
    gdt_base: int = 0
    gdt_limit: int = 0
