# SPDX-License-Identifier: Apache-2.0
"""Guest memory: RAM, one mapping that is split around the hole below 4 GiB, and windows that are no
RAM.

Private anonymous memory unless asked otherwise: the host gives it transparent huge pages, which a
memfd gets only where the administrator set shmem_enabled. A memfd (`shared=True`, or any hugetlb
pool) can be handed to other processes.
"""

from __future__ import annotations

import errno
import mmap
import os

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, GuestMemoryError, HostError, StateError
from pyvmm.machine.handle import Handle
from pyvmm.machine.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple
else:
    from pyvmm.record import NamedTuple

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30

#: RAM ends here at the latest and goes on at 4 GiB; between them live the devices and the APICs.
HOLE_START = 3 * GIB
HOLE_END = 4 * GIB

#: Huge page sizes that `hugepages=` takes, as the log2 that memfd_create(2) encodes.
HUGE_SHIFTS = {"2M": 21, "1G": 30}
_MFD_HUGE_SHIFT = 26
_MAP_NORESERVE = 0x4000  # <asm-generic/mman.h>; the mmap module names it since 3.12
HUGE_PAGE = 2 * MIB


class Region(NamedTuple):
    """A range of guest-physical addresses, in bytes."""

    gpa: int
    size: int


def ram_layout(size: int) -> tuple[Region, ...]:
    """Return where `size` bytes of RAM lie: up to 3 GiB from 0, the rest from 4 GiB."""
    low = min(size, HOLE_START)
    regions = [Region(0, low)]
    if size > low:
        regions.append(Region(HOLE_END, size - low))
    return tuple(regions)


def check_memory(memory: int, bits: int) -> None:
    """Raise ConfigError for bytes of RAM whose end no guest with so many bits of physical addresses
    can get to.
    """
    if not isinstance(memory, int):
        raise ConfigError(f"memory of {memory!r} bytes: it is to be a whole number")
    last = ram_layout(memory)[-1]
    if last.gpa + last.size > 1 << bits:
        most = (1 << bits) - (HOLE_END - HOLE_START) >> 20
        raise ConfigError(
            f"memory of {memory >> 20} MiB: guests of this KVM have {bits} bits of physical addresses, which is "
            f"at most {most} MiB"
        )


class File(NamedTuple):
    """A file whose first `size` bytes are memory of the guest; `name` is for messages.

    Using what is mapped of it may fail: where its file system is full, or somebody has cut it off
    (csrc/host/guard.h).
    """

    fd: int
    size: int
    name: str

    @property
    def trouble(self) -> str:
        """Why using it failed, as far as that can be seen now."""
        found = os.fstat(self.fd)
        if found.st_size < self.size:
            return f"{self.name} was cut off: it has {found.st_size} bytes of {self.size}"
        if not os.fstatvfs(self.fd).f_bavail:
            return f"{self.name}: its file system is full"
        return f"{self.name}: the host could not read or write it"


class Window(NamedTuple):
    """Memory of the guest that is not RAM: `size` bytes at `gpa`, which begin at byte `skip` of a
    mapping.
    """

    gpa: int
    size: int
    skip: int
    map: mmap.mmap
    file: File | None


class Mapping(NamedTuple):
    """Memory of this process: what begins at byte `skip` of `map`."""

    map: mmap.mmap
    skip: int

    @property
    def address(self) -> int:
        """Where it lies."""
        return _address(self.map) + self.skip


def anonymous(size: int, what: str) -> Mapping:
    """Return `size` bytes of private anonymous memory, in huge pages where the host has them; none
    is taken before it is used.

    `what` is for errors. Raise HostError if the host refuses.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        # A whole huge page more, so that the guest's pages can line up with the host's.
        mapping = mmap.mmap(-1, size + HUGE_PAGE, flags)
    except OSError as error:
        raise HostError(
            error.errno or errno.ENOMEM,
            f"mapping {size >> 20} MiB of {what}: {error.strerror}; ask for less",
        ) from error
    _advise(mapping, mmap.MADV_HUGEPAGE)
    # A child would share the pages, and each write of the guest would then copy one.
    _advise(mapping, mmap.MADV_DONTFORK)
    return Mapping(mapping, -_address(mapping) % HUGE_PAGE)


def _advise(mapping: mmap.mmap, advice: int) -> None:
    try:
        mapping.madvise(advice)
    except OSError:
        pass  # a kernel without transparent huge pages: small ones do


class GuestMemory(Part):
    """The RAM of one guest, and what else it has of memory (`add_window`).

    `size` is in bytes, a multiple of 4096 (or of the huge page size). `shared=True` puts it in a
    memfd, `fd`, which is -1 otherwise. `hugepages` is None, "2M" or "1G" and takes a memfd from the
    host's hugetlb pool. Raises ConfigError for a size that cannot be, HostError when the host has
    not enough. Memory is given by the host only when touched.
    """

    def __init__(self, size: int, *, shared: bool = False, hugepages: str | None = None) -> None:
        page = self._page_size(hugepages)
        if size < MIB or size % page:
            raise ConfigError(
                f"memory of {size} bytes: it must be at least 1 MiB and a multiple of {page} bytes"
            )
        self.size = size
        self.ram = ram_layout(size)
        self._offsets = self._file_offsets()
        self.fd = self._create_file(size, hugepages) if shared or hugepages else -1
        try:
            self._map = self._map_file(self.fd, size, hugepages)
        except BaseException:
            self._close_file()
            raise
        #: Bytes of the mapping before RAM begins, at a huge page boundary.
        self._skip = 0 if self.fd >= 0 else -_address(self._map) % HUGE_PAGE
        self._handle = self._register()
        self._windows: list[Window] = []

    @staticmethod
    def _page_size(hugepages: str | None) -> int:
        if hugepages is None:
            return PAGE
        if hugepages not in HUGE_SHIFTS:
            raise ConfigError(f"hugepages={hugepages!r}: choose from {', '.join(HUGE_SHIFTS)}")
        return 1 << HUGE_SHIFTS[hugepages]

    @staticmethod
    def _create_file(size: int, hugepages: str | None) -> int:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if hugepages:
            flags |= os.MFD_HUGETLB | HUGE_SHIFTS[hugepages] << _MFD_HUGE_SHIFT
        try:
            fd = os.memfd_create("pyvmm-ram", flags)
        except OSError as error:
            raise HostError(
                error.errno,
                f"memfd_create for guest RAM: {error.strerror}; the kernel needs memfd"
                + (f" and hugetlb pages of {hugepages}" if hugepages else ""),
            ) from error
        try:
            os.ftruncate(fd, size)
            _seal(fd)
        except OSError as error:
            os.close(fd)
            raise HostError(
                error.errno, f"guest RAM of {size} bytes: {error.strerror}; ask for less memory"
            ) from error
        return fd

    @staticmethod
    def _map_file(fd: int, size: int, hugepages: str | None) -> mmap.mmap:
        if fd >= 0:
            _guard()
        flags = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        # hugetlb pages are reserved here, so that a short pool is an error now and not a SIGBUS later.
        flags |= 0 if hugepages else _MAP_NORESERVE
        # A whole huge page more, so that the guest's pages can line up with the host's.
        room = 0 if fd >= 0 else HUGE_PAGE
        try:
            mapping = mmap.mmap(fd, size + room, flags)
        except OSError as error:
            remedy = (
                f"raise the pool: echo N > /sys/kernel/mm/hugepages/hugepages-"
                f"{(1 << HUGE_SHIFTS[hugepages]) >> 10}kB/nr_hugepages"
                if hugepages
                else "ask for less memory"
            )
            raise HostError(
                error.errno or errno.ENOMEM,
                f"mapping {size >> 20} MiB of guest RAM: {error.strerror}; {remedy}",
            ) from error
        if not hugepages:
            _advise(mapping, mmap.MADV_HUGEPAGE)
        return mapping

    def _file_offsets(self) -> tuple[tuple[int, int, int], ...]:
        """Return (gpa, size, offset in RAM) of each region."""
        result = []
        offset = 0
        for region in self.ram:
            result.append((region.gpa, region.size, offset))
            offset += region.size
        return tuple(result)

    def _register(self) -> Handle:
        memory = lib.guest_memory_create()
        handle = Handle(memory, lib.guest_memory_destroy, "guest memory")
        base = _address(self._map) + self._skip
        for gpa, size, offset in self._offsets:
            lib.guest_memory_add(memory, gpa, size, ffi.cast("void *", base + offset), 0)
        return handle

    @property
    def pointer(self) -> Any:
        """The C object, for those that are closed before the memory is.

        Raise StateError after close().
        """
        return self._handle.pointer

    @property
    def address(self) -> int:
        """Host virtual address of guest-physical address 0. Raise StateError after close()."""
        self._handle.check()
        return _address(self._map) + self._skip

    def add_window(self, gpa: int, size: int, what: int | File | Mapping | None = None) -> int:
        """Add memory that is not RAM: the first `size` bytes of a file or of a mapping, or new
        memory. Return its place.

        Devices may move data there; kernels are not told of it. Before the machine starts; it is
        given back with the RAM, a mapping as well; a descriptor stays the caller's and open until
        then. Raise ConfigError where it overlaps other memory, and for a file that is shorter;
        HostError if the host refuses.
        """
        if isinstance(what, int):
            what = File(what, size, f"descriptor {what}")
        file = what if isinstance(what, File) else None
        if isinstance(what, Mapping):
            mapping = what
        elif file is None:
            mapping = anonymous(size, "guest memory")
        else:
            mapping = _shared(file, size)
        pointer = ffi.cast("void *", mapping.address)
        error_number = lib.guest_memory_add(
            self.pointer, gpa, size, pointer, lib.GUEST_MEMORY_APERTURE
        )
        if error_number:
            if mapping is not what:
                mapping.map.close()
            raise ConfigError(f"memory at {gpa:#x} + {size:#x}: {os.strerror(-error_number)}")
        self._windows.append(Window(gpa, size, mapping.skip, mapping.map, file))
        return mapping.address

    @property
    def reserved(self) -> tuple[Region, ...]:
        """The memory that is not RAM."""
        return tuple(Region(window.gpa, window.size) for window in self._windows)

    @property
    def regions(self) -> tuple[Region, ...]:
        """All memory, RAM first."""
        return (*self.ram, *self.reserved)

    def slots(self) -> list[tuple[int, int, int]]:
        """Return (gpa, size, host virtual address) of each region, as KVM memory slots want them."""
        base = self.address
        self._handle.check()
        windows = [(w.gpa, w.size, _address(w.map) + w.skip) for w in self._windows]
        return [*((gpa, size, base + offset) for gpa, size, offset in self._offsets), *windows]

    def view(self, gpa: int, length: int) -> memoryview:
        """Return the guest's own bytes at [gpa, gpa + length), writable.

        Raise GuestMemoryError outside its memory, and in what is mapped of a file, where each
        access may fail and only `read` and `write` can say so; StateError after close().
        """
        view, file = self._find(gpa, length)
        if file is not None:
            view.release()
            raise GuestMemoryError(
                f"guest-physical range {gpa:#x} + {length:#x} lies in {file.name}: use read() and write() there"
            )
        return view

    def _find(self, gpa: int, length: int) -> tuple[memoryview, File | None]:
        """Return the bytes, and the file that they are in if they are in one."""
        self._handle.check()
        for start, size, offset in self._offsets:
            if start <= gpa < start + size and 0 <= length <= start + size - gpa:
                at = self._skip + gpa - start + offset
                return _view(self._map, at, length), None
        for window in self._windows:
            offset = gpa - window.gpa
            if 0 <= offset < window.size and 0 <= length <= window.size - offset:
                at = window.skip + offset
                return _view(window.map, at, length), window.file
        raise GuestMemoryError(
            f"guest-physical range {gpa:#x} + {length:#x} is not inside one region of memory"
        )

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of guest memory.

        Raise GuestMemoryError outside it, and where a file that it lies in is gone.
        """
        view, file = self._find(gpa, length)
        with view:
            if file is None:
                return bytes(view)
            copy = bytearray(length)
            _copy(copy, view, file)
            return bytes(copy)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy data into guest memory. Raise GuestMemoryError as `read`."""
        view, file = self._find(gpa, len(data))
        with view:
            if file is None:
                view[:] = data
            else:
                _copy(view, data, file)

    @property
    def resident(self) -> int:
        """Bytes of the RAM that the host has given and has in its memory now.

        Counted anew: 1 ms a GiB, 12 at worst.
        """
        address = ffi.cast("void *", self.address)
        return int(lib.pagemap_count(address, self.size))

    @property
    def trouble(self) -> str:
        """Why the guest, or the host for it, could not use some of its memory; "" where none of it
        can fail.
        """
        files = [window.file for window in self._windows if window.file is not None]
        return "; ".join(file.trouble for file in files)

    def _close_file(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Give the memory back. A view still held keeps the mapping until it is released.

        Raise StateError while a machine has it.
        """
        super().close()
        if self._handle.released:
            return
        self._handle.release()
        self._close_file()
        for mapping in (self._map, *(window.map for window in self._windows)):
            try:
                mapping.close()
            except BufferError:
                pass


def _copy(to: memoryview | bytearray, data: bytes | bytearray | memoryview, file: File) -> None:
    with (
        ffi.from_buffer("uint8_t[]", to, require_writable=True) as place,
        ffi.from_buffer("uint8_t[]", data) as source,
    ):
        if not lib.guard_copy(place, source, len(source)):
            raise GuestMemoryError(file.trouble)


def _guard() -> None:
    """Prepare the process for memory that may be gone."""
    if (error := lib.guard_setup()) < 0:
        raise HostError(-error, f"sigaction for SIGBUS: {os.strerror(-error)}")


def _shared(file: File, size: int) -> Mapping:
    _guard()
    try:
        return Mapping(mmap.mmap(file.fd, size, mmap.MAP_SHARED | _MAP_NORESERVE), 0)
    except ValueError as error:
        raise ConfigError(f"{file.name} is shorter than {size} bytes") from error
    except OSError as error:
        raise HostError(
            error.errno or errno.ENOMEM,
            f"mapping {size >> 20} MiB of guest memory: {error.strerror}; ask for less",
        ) from error


def _seal(fd: int) -> None:
    """Seal a memfd, so that no other process can cut it off under us, which would be a SIGBUS."""
    import fcntl  # most guests' memory is none

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _view(mapping: mmap.mmap, at: int, length: int) -> memoryview:
    """Return a part of it, which keeps it mapped. Raise StateError once it is closed."""
    try:
        return memoryview(mapping)[at : at + length]
    except ValueError:
        raise StateError("guest memory is closed") from None


def _address(mapping: mmap.mmap) -> int:
    """Return where it lies in this process. Raise StateError once it is closed."""
    try:
        return int(ffi.cast("uintptr_t", ffi.from_buffer(mapping)))
    except ValueError:
        raise StateError("this memory is closed") from None
