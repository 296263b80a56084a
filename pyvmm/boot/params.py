# SPDX-License-Identifier: Apache-2.0
"""The zero page: ``struct boot_params``, by which a bzImage learns of its machine.

Layout: Documentation/arch/x86/zero-page.rst and boot.rst in the Linux source.
"""

from __future__ import annotations

import os
import struct

from pyvmm.boot.layout import BOOT_PARAMS, PAGE_SIZE, SETUP_DATA
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.boot.e820 import Entry
    from pyvmm.boot.initrd import Placed
    from pyvmm.machine.memory import GuestMemory

#: Where the setup header starts, in the image as in boot_params, and where it must have ended.
HEADER_START = 0x1F1
HEADER_LIMIT = 0x290
#: Entries that the E820 table of the zero page holds.
MAX_E820 = 128

_LOADER_UNDEFINED = 0xFF
_VIDEO_NORMAL = 0xFFFF
_CAN_USE_HEAP = 1 << 7
_SETUP_RNG_SEED = 9
_SEED_BYTES = 32


def write(
    memory: GuestMemory,
    header: bytes,
    *,
    load_address: int,
    cmdline: int,
    initrd: Placed,
    rsdp: int,
    e820: Sequence[Entry],
) -> int:
    """Write the zero page around the image's setup ``header``; return its guest-physical address.

    ``load_address``, ``cmdline`` and ``rsdp`` are guest-physical.

    Raise `ConfigError` when the memory map has more entries than the page can hold.
    """
    if len(e820) > MAX_E820:
        raise ConfigError(
            f"the memory map has {len(e820)} entries and a kernel takes {MAX_E820}; "
            "reserve fewer regions"
        )
    page = bytearray(PAGE_SIZE)
    page[HEADER_START : HEADER_START + len(header)] = header
    struct.pack_into("<Q", page, 0x070, rsdp)
    page[0x1E8] = len(e820)
    struct.pack_into("<H", page, 0x1FA, _VIDEO_NORMAL)
    page[0x210] = _LOADER_UNDEFINED
    page[0x211] &= ~_CAN_USE_HEAP & 0xFF  # only the real-mode setup code has a heap
    struct.pack_into("<III", page, 0x214, load_address, initrd.gpa, initrd.size)
    struct.pack_into("<I", page, 0x228, cmdline)
    struct.pack_into("<Q", page, 0x250, _write_seed(memory))
    for index, entry in enumerate(e820):
        struct.pack_into("<QQI", page, 0x2D0 + index * 20, *entry)
    memory.write(BOOT_PARAMS, page)
    return BOOT_PARAMS


def _write_seed(memory: GuestMemory) -> int:
    """Return a setup_data node with random bytes: the guest need not wait for entropy at its start.

    Kernels before 6.0 do not know the type and pass over it.
    """
    node = struct.pack("<QII", 0, _SETUP_RNG_SEED, _SEED_BYTES) + os.urandom(_SEED_BYTES)
    memory.write(SETUP_DATA, node)
    return SETUP_DATA
