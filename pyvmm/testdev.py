# SPDX-License-Identifier: Apache-2.0
"""The devices that kvm-unit-tests talk to, as hooks: QEMU's test device, debug exit and fw_cfg.

It is also an example of what hooks are for. Each device below is a function that gets an access of
the guest and says what a read gives; `TestDevice` puts them on ports and addresses::

    with pyvmm.VM("128M", kernel="x86/msr.flat") as vm:
        TestDevice(vm)
        result = vm.run(timeout=90)  # result.status is 0 if the test passed

docs/kvm-unit-tests.md says how to run those tests.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from pyvmm._core import ffi
from pyvmm.config import KvmUnitTestsConfig
from pyvmm.errors import GuestMemoryError, HostError
from pyvmm.machine.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine.hooks import Exit

#: The test device, at the places where QEMU's pc-testdev has it.
SCRATCH = 0xE0
FLUSH_PAGE = 0xE4
SCRATCH_BYTES = 0xE8
IRQ_LINES = 0x2000
IRQ_COUNT = 24
MEMORY = 0xFF000000
MEMORY_SIZE = 0x10000

#: fw_cfg: a selector of 16 bits, then the register that gives the chosen item byte by byte.
FW_CFG = 0x510
SIGNATURE, ID, RAM_SIZE, CPUS, MAX_CPUS = 0x00, 0x01, 0x03, 0x05, 0x0F
CMDLINE_SIZE, CMDLINE = 0x14, 0x15
#: Bit of the selector that asks to write, which no item allows.
_WRITE = 1 << 14

_PAGE = 4096
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class FwCfg:
    """QEMU's configuration device, on two ports: items of bytes by number, which a guest reads.

    ``items`` maps numbers to bytes. Other items, and all that lies beyond the end of one, are zero.
    """

    def __init__(self, vm: Any, items: dict[int, bytes]) -> None:
        self.items = items
        self.item = b""
        self.at = 0
        vm.on_port(FW_CFG, 2)(self.access)

    def access(self, exit: Exit) -> int:
        """Choose an item, or read its next byte."""
        if exit.is_write:
            if exit.offset == 0:
                self.item = self.items.get(exit.value & ~_WRITE, b"")
                self.at = 0
            return 0
        byte = self.item[self.at] if self.at < len(self.item) else 0
        self.at = min(self.at + 1, len(self.item))
        return byte


class TestDevice(Device):
    """All that kvm-unit-tests expect of a machine beside the serial port, added to a VM before it
    starts.

    * A write to port 0xf4 ends the run, with the byte as `Result.status`: 0 passed, 38 skipped.
    * Ports 0xe0 to 0xe3 and 0xe8 to 0xeb keep the 32 bits that are written there.
    * A write to port 0xe4 has KVM forget the guest page at that address, so that the next access faults.
    * Ports 0x2000 to 0x2017 are the interrupt lines 0 to 23: a write sets the line to 0 or 1.
    * 64 KiB at 0xff000000 are memory, every access to which is an exit.
    * fw_cfg tells the number of vCPUs, the size of RAM and the command line.

    `vm` is a `pyvmm.VM`.
    """

    __test__ = False  # for pytest, which would take it for tests
    kind = "testdev"

    def __init__(self, vm: Any) -> None:
        super().__init__(vm.machine)
        self.vm = vm
        self.kept = 0
        self.memory = bytearray(MEMORY_SIZE)
        vm.end_at_status()
        vm.on_port(SCRATCH, 4)(self.scratch)
        vm.on_port(SCRATCH_BYTES, 4)(self.scratch)
        vm.on_port(FLUSH_PAGE, 4)(self.flush_page)
        vm.on_port(IRQ_LINES, IRQ_COUNT)(self.irq_line)
        vm.on_mmio(MEMORY, MEMORY_SIZE)(self.access_memory)
        cpus = struct.pack("<H", len(vm.vcpus))
        words = os.fsencode(vm.cmdline) + b"\0"
        items = {
            SIGNATURE: b"QEMU",
            ID: struct.pack("<I", 1),  # items are read by port, not by DMA
            RAM_SIZE: struct.pack("<Q", vm.memory.size),
            CPUS: cpus,
            MAX_CPUS: cpus,
            CMDLINE_SIZE: struct.pack("<I", len(words)),
            CMDLINE: words,
        }
        self.fw_cfg = FwCfg(vm, items)
        vm.machine.add_device(self)

    @property
    def config(self) -> KvmUnitTestsConfig:
        """The record from which one like it can be made."""
        return KvmUnitTestsConfig()

    def scratch(self, exit: Exit) -> int:
        """Keep what is written to a part of the 32 bits, or give that part."""
        shift = 8 * exit.offset
        mask = (1 << 8 * exit.size) - 1
        if exit.is_write:
            self.kept = self.kept & ~(mask << shift) | (exit.value & mask) << shift
            self.kept &= 0xFFFFFFFF
        return self.kept >> shift & mask

    def irq_line(self, exit: Exit) -> int:
        """Set an interrupt line. Lines are edges and levels as the guest programs its controllers."""
        if exit.is_write:
            self.vm.machine.vm.irq_line(exit.offset, exit.value != 0)
        return 0

    def access_memory(self, exit: Exit) -> int:
        """Write or read bytes that lie in this process."""
        place = slice(exit.offset, min(exit.offset + exit.size, MEMORY_SIZE))
        if exit.is_write:
            data = (exit.value & (1 << 8 * exit.size) - 1).to_bytes(exit.size, "little")
            self.memory[place] = data[: place.stop - place.start]
        return int.from_bytes(self.memory[place], "little")

    def flush_page(self, exit: Exit) -> int:
        """Have KVM drop its mapping of the page of RAM at the address that is written.

        A change of the host's page protection does that. It becomes executable and back: at no time
        may it be anything less, because other vCPUs and devices use it. Raise HostError if the
        host does not allow it.
        """
        if not exit.is_write:
            return 0
        try:
            with self.vm.memory.view(exit.value & -_PAGE, _PAGE) as view:
                address = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
        except GuestMemoryError:
            return 0  # nothing is mapped there
        libc = ctypes.CDLL(None, use_errno=True)
        for protection in (_READ_WRITE | mmap.PROT_EXEC, _READ_WRITE):
            if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), protection):
                number = ctypes.get_errno()
                raise HostError(number, f"mprotect of a guest page: {os.strerror(number)}")
        return 0
