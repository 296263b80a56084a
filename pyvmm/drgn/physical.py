# SPDX-License-Identifier: Apache-2.0
"""Guest-physical memory that can be read: that of a machine here, or of one in another process."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pyvmm.errors import GuestMemoryError, HostError, StateError
from pyvmm.machine.memory import Region

_SPACE = 1 << 64
#: An end of file if the process has ended, EIO if it runs but has given the memory back.
ENDED = "the machine whose memory is read has ended"


class PhysicalMemory(Protocol):
    """The part of a guest's RAM that drgn needs; `pyvmm.machine.memory.GuestMemory` has it."""

    @property
    def ram(self) -> tuple[Region, ...]:
        """Its regions, ascending."""

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy; GuestMemoryError outside RAM."""


class Mapped(NamedTuple):
    """A region of guest RAM and where the VMM has it mapped, all in bytes."""

    gpa: int
    size: int
    host: int


class RemoteMemory:
    """The RAM of a guest of another process, read through a descriptor of that process's
    /proc/PID/mem.

    The descriptor stays the caller's. Raises HostError for regions that cannot be.
    """

    def __init__(self, fd: int, regions: Sequence[Sequence[int]]) -> None:
        self.fd = fd
        self._regions = tuple(sorted(Mapped(*map(int, region)) for region in regions))
        end = 0
        for gpa, size, host in self._regions:
            if gpa < end or size <= 0 or host <= 0 or max(gpa, host) + size > _SPACE:
                raise HostError(f"the machine says it has RAM of {size} bytes at {gpa:#x}")
            end = gpa + size
        self.ram = tuple(Region(region.gpa, region.size) for region in self._regions)

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of guest memory.

        Raise GuestMemoryError outside RAM, StateError once the machine is gone.
        """
        for start, size, host in self._regions:
            if start <= gpa < start + size and 0 <= length <= start + size - gpa:
                return self._pread(host + gpa - start, length)
        raise GuestMemoryError(
            f"guest-physical range {gpa:#x} + {length:#x} is not inside one region of RAM"
        )

    def _pread(self, address: int, length: int) -> bytes:
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self.fd, length, address)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise StateError(ENDED) from error
                raise HostError(
                    error.errno, f"reading the memory of the machine: {error.strerror}"
                ) from error
            if not piece:
                raise StateError(ENDED)
            pieces.append(piece)
            address += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
