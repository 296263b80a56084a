# SPDX-License-Identifier: Apache-2.0
"""The contents of a swap disk: memory, or a file for one larger than the host's memory; slot by
slot of 4 KiB.
"""

from __future__ import annotations

import os

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError
from pyvmm.machine.handle import Handle
from pyvmm.machine.memory import File, Mapping, anonymous
from pyvmm.machine.part import Part
from pyvmm.swap.aperture import ALIGNMENT, LARGEST
from pyvmm.swap.file import SwapFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SLOT: int = lib.SWAPSTORE_SLOT
_OBSERVERS = ("swapstore_on_write", "swapstore_on_discard")


class SwapStore(Part):
    """`size` bytes for a guest's swapped pages, all zero at first; the host gives them only as they
    are written.

    They are private anonymous memory, `memory`, for the same reason as RAM: the host gives that
    huge pages.

    `backing` names a file that holds them instead of host memory, `file`: see `SwapFile` for what
    is taken. It is emptied at the end; if it was not there before it is removed. A VMM that is
    killed leaves it, and the next one takes it over.

    Raises ConfigError for a size that cannot be, and what `SwapFile` does; HostError if the host
    refuses.
    """

    def __init__(self, size: int, backing: str | os.PathLike[str] | None = None) -> None:
        if not 0 < size <= LARGEST or size % ALIGNMENT:
            raise ConfigError(
                f"a swap store of {size} bytes: it must be a multiple of 2 MiB, and at most {LARGEST >> 40} TiB"
            )
        self.size = size
        self.backing = None if backing is None else os.fspath(backing)
        self._handle: Handle | None = None
        self.file: SwapFile | None = None
        self.memory: Mapping | None = None
        try:
            if self.backing is None:
                self.memory = anonymous(size, "a swap store")
                pointer = ffi.cast("void *", self.memory.address)
                made = lib.swapstore_create_memory(pointer, size)
            else:
                self.file = SwapFile(self.backing, size)
                made = lib.swapstore_create(self.file.fd, size)
            self._handle = Handle(made, lib.swapstore_destroy, "the swap store")
        except BaseException:
            self.close()
            raise

    @property
    def handle(self) -> Handle:
        """The `struct swapstore` of it."""
        assert self._handle is not None
        return self._handle

    @property
    def _c(self) -> Any:
        return self.handle.pointer

    @property
    def slots(self) -> int:
        """The pages of 4 KiB that it has room for; slot 0 is the header of a Linux swap area."""
        return self.size // SLOT

    @property
    def bytes_used(self) -> int:
        """Bytes that the host has given for it so far, less what came back; of memory, what it has
        not swapped out itself.

        A huge page counts in whole, but for what was discarded of it. Counted anew each time: 0.16
        s for 1 TiB. Raise StateError once it is closed.
        """
        with self.handle as store:
            return int(lib.swapstore_bytes(store))

    def written(self, slot: int) -> bool:
        """Return whether there is such a slot and it holds data.

        Raise StateError once it is closed.
        """
        with self.handle as store:
            return 0 <= slot < self.slots and bool(lib.swapstore_written(store, slot))

    def disk(self) -> memoryview | int:
        """Return what a disk over it (a `VirtioBlk`) takes. Raise StateError once it is closed."""
        self.handle.check()
        if self.file is not None:
            return self.file.fd
        assert self.memory is not None
        return memoryview(self.memory.map)[self.memory.skip :][: self.size]

    @property
    def mapped(self) -> Mapping | File:
        """The part that the guest sees, for `GuestMemory.add_window`.

        Raise StateError once it is closed.
        """
        self.handle.check()
        if self.file is not None:
            return self.file.file
        assert self.memory is not None
        return self.memory

    @property
    def fd(self) -> int:
        """The descriptor of the file behind it, -1 for memory."""
        return -1 if self.file is None else self.file.fd

    def watch(self, disk: Any) -> None:
        """Have a disk over it (a `VirtioBlk`) tell it of writes and discards; the disk is closed
        first.
        """
        store = self.handle.pointer
        on_write, on_discard = (ffi.addressof(lib, name) for name in _OBSERVERS)
        disk.observe(on_write, on_discard, store)
        disk.share(self.handle.pointer)
        if self.file is not None and self.file.allocated:
            disk.keep_blocks()
            lib.swapstore_keep_blocks(store)

    def close(self) -> None:
        """Give all of it back; a guest that has it mapped keeps that. May be called twice.

        Raise StateError while a machine has it.
        """
        super().close()
        if self._handle is not None:
            self._handle.release()
        self.memory = None
        if self.file is not None:
            self.file.close()
