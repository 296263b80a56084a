# SPDX-License-Identifier: Apache-2.0
"""Where the boot layer puts what it hands to a kernel, and the checks that all loaders share.

All of it lies below the firmware's area; a kernel copies what it needs and then owns the memory.
"""

from __future__ import annotations

from pyvmm.boot.e820 import EBDA, HIGH_MEMORY
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.memory import GuestMemory

GDT = 0x500
PVH_START_INFO = 0x6000
BOOT_PARAMS = 0x7000
SETUP_DATA = 0x8000
PAGE_TABLES = 0x9000
COMMAND_LINE = 0x20000

PAGE_SIZE = 0x1000
MIB = 1 << 20
_ZEROS = bytes(1 << 16)


def align_up(value: int, alignment: int) -> int:
    """Return the next multiple of ``alignment``, a power of two, at or above ``value``."""
    return (value + alignment - 1) & -alignment


def mib(size: int) -> int:
    """Convert ``size`` bytes to MiB, rounded up: what a message tells a user to ask for."""
    return -(-size // MIB)


def clear(memory: GuestMemory, gpa: int, length: int) -> None:
    """Write zeros to ``length`` bytes of guest memory from ``gpa``."""
    with memory.view(gpa, length) as view:
        for offset in range(0, length, len(_ZEROS)):
            view[offset : offset + len(_ZEROS)] = _ZEROS[: length - offset]


def low_memory_end(memory: GuestMemory) -> int:
    """Return the end of the RAM that starts at address 0, guest-physical.

    Raise `ConfigError` when there is too little for any kernel.
    """
    if not memory.ram or memory.ram[0].gpa != 0:
        raise ConfigError("the guest has no RAM at address 0, where a kernel's parameters belong")
    end = memory.ram[0].size
    if end <= HIGH_MEMORY:
        raise ConfigError(
            f"{mib(end)} MiB of guest memory cannot hold a kernel, which is loaded from 1 MiB up; "
            "give it more, Linux 64 MiB at least"
        )
    return end


def write_command_line(memory: GuestMemory, cmdline: str, limit: int) -> int:
    """Write ``cmdline`` with its NUL; return its guest-physical address. ``limit`` bytes do not count the NUL.

    Raise `ConfigError` when it is longer, or holds a NUL that would cut it short.
    """
    text = encode_line(cmdline)
    limit = min(limit, EBDA - COMMAND_LINE - 1)
    if len(text) - 1 > limit:
        raise ConfigError(
            f"the kernel command line has {len(text) - 1} bytes and this kernel takes at most "
            f"{limit}; shorten it"
        )
    memory.write(COMMAND_LINE, text)
    return COMMAND_LINE


def encode_line(cmdline: str) -> bytes:
    """Encode a command line as the bytes of its text with the NUL that ends it.

    Raise `ConfigError` if it has one already.
    """
    text = cmdline.encode("utf-8", "surrogateescape")
    if b"\0" in text:
        raise ConfigError("the kernel command line contains a NUL character; remove it")
    return text + b"\0"
