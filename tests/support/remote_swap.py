# SPDX-License-Identifier: Apache-2.0
"""The remote-controlled guest with a swap disk: it sees the aperture, and the test drives the disk."""

from __future__ import annotations

import mmap
import struct
from typing import Any

from pyvmm._core import ffi, lib
from pyvmm.config import FUNCTION, SwapConfig
from pyvmm.machine.memory import MIB
from pyvmm.swap.disk import Swap
from pyvmm.swap.store import SLOT
from tests.support import guest64
from tests.support.remote import Remote
from tests.support.virtio_driver import WRITE, Descriptor, Driver

SIZE = 4 * MIB
SERIAL = "pyvmm-swap"
#: Free memory of the guest: the disk's rings, a request, and data.
RINGS, REQUEST, DATA = 0x800000, 0x810000, 0x820000
READ, WRITE_OUT, IDENTIFY, DISCARD = 0, 1, 8, 11


class SwapGuest(Remote):
    """Options go to the machine, but for the mode, the policy and the size of the store.

    The store has small pages unless `huge`: the host gives them one by one, so that each slot counts for itself.
    """

    def __init__(
        self,
        mode: str = "symcall",
        size: int = SIZE,
        *,
        policy: Any = "always",
        huge: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        machine = self.machine
        try:
            decide = policy if callable(policy) else None
            config = SwapConfig(size, mode, SERIAL, policy=FUNCTION if decide else policy)
            self.swap = Swap(machine, config, decide)
            self.disk, self.store = self.swap.disk, self.swap.store
            if not huge:
                assert self.store.memory is not None
                self.store.memory.map.madvise(mmap.MADV_NOHUGEPAGE)
            assert self.swap.aperture is not None
            self.aperture = self.swap.aperture
            guest64.map_window(machine, self.aperture.start, self.aperture.region.size)
            self.driver = Driver(machine, self.disk)  # type: ignore[arg-type]
            (self.queue,) = self.driver.start(at=RINGS)
        except BaseException:
            self.close()
            raise

    def slot(self, number: int) -> int:
        """Its address in the guest."""
        return self.aperture.base + number * SLOT

    def request(
        self, kind: int, slot: int, address: int, length: int = SLOT, *, status: int = 0
    ) -> None:
        """One request of the disk, with its data anywhere in guest memory, that ends with `status`."""
        memory = self.machine.memory
        memory.write(REQUEST, struct.pack("<IIQ", kind, 0, slot * 8 if kind != DISCARD else 0))
        memory.write(REQUEST + 16, b"\xff")
        data = Descriptor(address, length, WRITE if kind in (READ, IDENTIFY) else 0)
        ends = Descriptor(REQUEST, 16), Descriptor(REQUEST + 16, 1, WRITE)
        self.queue.chain(0, [ends[0], data, ends[1]])
        self.queue.offer(0)
        self.queue.kick()
        self.queue.wait()
        assert memory.read(REQUEST + 16, 1) == bytes([status])

    def swap_out(self, slot: int, page: bytes) -> None:
        """As a plain guest does it."""
        self.machine.memory.write(DATA, page)
        self.request(WRITE_OUT, slot, DATA)

    def swap_in(self, slot: int) -> bytes:
        self.request(READ, slot, DATA)
        return self.machine.memory.read(DATA, SLOT)

    def identify(self) -> None:
        """Asks for the serial number."""
        self.request(IDENTIFY, 0, DATA, 20)
        assert self.machine.memory.read(DATA, 20).rstrip(b"\0") == SERIAL.encode()

    def discard(self, slot: int, count: int = 1) -> None:
        self.machine.memory.write(DATA, struct.pack("<QII", slot * 8, count * 8, 0))
        self.request(DISCARD, 0, DATA, 16)

    def announced(self, page: str = "vm_page") -> dict[str, Any]:
        """What the VM-wide page says of the store."""
        return announced(self.machine.memory.read(self.address(page), lib.SYMBIOTIC_PAGE_SIZE))

    def can(self, number: int, rbx: int, data: bytes = b"") -> None:
        """Has the guest answer a symcall of 0x100 to 0x107 with that; 0: with its arguments, each with 1 added."""
        index = number - 0x100
        assert len(data) <= 256
        self.machine.memory.write(self.address("canned_data") + index * 256, data.ljust(256, b"\0"))
        self.set_value("canned", rbx, index)

    def attach(self, flags: int = 0) -> int:
        """RAX."""
        base, size = self.aperture.base, self.aperture.size
        return self.ring(lib.SYMBIOTIC_SWAP_ATTACH, base, size, flags)[0]

    def attach_tier(self) -> tuple[int, int]:
        """RAX and RBX."""
        base, size = self.aperture.base, self.aperture.size
        answer = self.ring(lib.SYMBIOTIC_SWAP_ATTACH, base, size, lib.SYMBIOTIC_SWAP_AS_TIER)
        return answer[0], answer[1]

    @property
    def sectors(self) -> int:
        """Of the disk, as its driver reads it."""
        return int.from_bytes(self.driver.config(0, 8), "little")

    def detach(self) -> int:
        return self.ring(lib.SYMBIOTIC_SWAP_DETACH)[0]


def announced(page: bytes) -> dict[str, Any]:
    """The extension of a VM-wide page, as a guest reads it."""
    said = ffi.from_buffer("struct symbiotic_vm_page *", page)
    assert (said.ext_version, said.reserved1, said.reserved2) == (1, 0, 0)
    return {
        "size": said.ext_size,
        "mode": said.swap_mode,
        "aperture": (said.aperture_base, said.aperture_size, said.aperture_room),
        "serial": bytes(said.swap_serial).rstrip(b"\0"),
    }
