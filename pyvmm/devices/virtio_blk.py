# SPDX-License-Identifier: Apache-2.0
"""The virtio disk (virtio 1.2, section 5.2) over a raw file, a block device, a memfd or memory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from pyvmm._core import ffi, lib
from pyvmm.config import DiskConfig
from pyvmm.devices.virtio import VirtioDevice
from pyvmm.errors import ConfigError, HostError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config import DeviceConfig
    from pyvmm.machine.machine import Machine

SECTOR = 512
SERIAL_BYTES = 20


class VirtioBlk(VirtioDevice):
    """A disk over the file `disk`: a path, or an open descriptor that stays the caller's.

    Or over memory: a memoryview of bytes in a private anonymous mapping, which stays mapped until
    `close`. There a flush does nothing, and a discard gives back whole pages.

    `serial`, an attribute as well, is what the guest reads as the disk's serial number, at most 20
    ASCII characters. A writable disk is locked against every other user that locks (flock(2)), a
    read-only one against writers.

    `sectors` is its size in units of 512 bytes. Discards punch holes; a flush is fdatasync(2).

    A file that begins as an image of another format (qcow2, vmdk) is refused, because the guest
    would get its tables for sectors. `format="raw"` says that those bytes are the guest's own.

    Raises HostError when the file is missing, may not be opened or is in use; ImageError when it
    cannot be a disk: a directory, empty, not raw, not a multiple of 512 bytes; ConfigError for a
    bad serial number or another format.
    """

    kind = "virtio-blk"

    def __init__(
        self,
        machine: Machine,
        disk: str | os.PathLike[str] | int | memoryview,
        *,
        readonly: bool = False,
        serial: str = "",
        format: str | None = None,
    ) -> None:
        if format not in (None, "raw"):
            raise ConfigError(f"disk format {format!r}: there is only raw")
        super().__init__(machine)
        self._fd = -1
        encoded = encode_serial(serial)
        self.serial = serial
        self.readonly = readonly
        self._format = format
        self._memory: Any = None
        try:
            if isinstance(disk, memoryview):
                make, place = lib.virtio_blk_create_memory, self._take(disk)
            else:
                make, place = lib.virtio_blk_create, self._take_file(disk, format)
            self._attach(lambda wiring: make(wiring, place, self.sectors, readonly, encoded))
        except BaseException:
            self.close()
            raise

    def _take_file(self, disk: str | os.PathLike[str] | int, format: str | None) -> int:
        self._file = disk if isinstance(disk, int) else os.fspath(disk)
        self.name = f"descriptor {disk}" if isinstance(disk, int) else os.fspath(disk)
        self._fd = _open_disk(disk, self.name, self.readonly)
        _check_kind(self._fd, self.name)
        if format is None:
            _refuse_formats(self._fd, self.name)
        size = _disk_size(self._fd, self.name)
        _lock(self._fd, self.name, self.readonly)
        self.sectors = size // SECTOR
        return self._fd

    @property
    def config(self) -> DeviceConfig:
        """The record from which a disk like this one can be made.

        Raise ConfigError for one over memory.
        """
        if self._memory is not None:
            raise ConfigError("a disk over memory of this process has no record")
        return DiskConfig(self._file, self.readonly, self.serial, self._format)

    def _take(self, disk: memoryview) -> Any:
        self.name = "memory"
        if not disk.nbytes or disk.nbytes % SECTOR:
            raise ImageError(f"a disk of {disk.nbytes} bytes of memory: not a multiple of {SECTOR}")
        self._memory = ffi.from_buffer("uint8_t[]", disk, require_writable=not self.readonly)
        self.sectors = disk.nbytes // SECTOR
        return self._memory

    def observe(
        self, on_write: Any = ffi.NULL, on_discard: Any = ffi.NULL, opaque: Any = ffi.NULL
    ) -> None:
        """Have C functions called with (opaque, sector, count) after each write and each discard.

        Sectors have 512 bytes. The functions run on the disk's own thread, after the change and
        before the guest learns of it. They are for C code: a Python callback would stall the disk.
        """
        with self.handle as device:
            lib.virtio_blk_observe(device, on_write, on_discard, opaque)

    def share(self, store: Any) -> None:
        """Have requests wait for, or fail by, another user of the disk's memory: a `struct
        swapstore`, which tells the disk in turn.

        Before the machine starts.
        """
        with self.handle as device:
            enter, leave = (
                ffi.addressof(lib, name) for name in ("swapstore_enter", "swapstore_leave")
            )
            lib.virtio_blk_share(device, enter, leave, store)
            lib.swapstore_tell(store, ffi.addressof(lib, "virtio_blk_close"), device)

    def keep_blocks(self) -> None:
        """Have discards keep the blocks of a file that were set aside, reading as zeroes.

        Before the machine starts.
        """
        with self.handle as device:
            lib.virtio_blk_keep_blocks(device)

    def close(self) -> None:
        """Free the device; unlock and close the file, or let go of the memory."""
        super().close()
        if self._memory is not None:
            ffi.release(self._memory)
            self._memory = None
        if self._fd >= 0:
            # The lock belongs to the open file, which the caller of a descriptor still holds.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1


def encode_serial(serial: str) -> bytes:
    """Return the serial number in ASCII, at most 20 bytes (virtio 1.2, 5.2.6:
    VIRTIO_BLK_T_GET_ID).

    Raise ConfigError for a longer text, and for letters that are not printable ASCII.
    """
    if len(serial) > SERIAL_BYTES or not (serial.isascii() and serial.isprintable()):
        raise ConfigError(
            f"disk serial number {serial!r}: use at most {SERIAL_BYTES} printable ASCII characters"
        )
    return serial.encode()


_OPEN_REMEDIES = {
    errno.ENOENT: "there is no such file; create one with truncate -s 1G FILE",
    errno.EACCES: "permission denied; change its mode, or open it readonly",
    errno.EROFS: "its file system is read-only; open it readonly",
    errno.ENXIO: "no device behind this node",
}


def _open_disk(disk: str | os.PathLike[str] | int, name: str, readonly: bool) -> int:
    if isinstance(disk, int):
        return _reopen(disk, name, readonly)
    # Not blocking: a FIFO in place of a disk should be an error, not a hang.
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(disk, flags)
    except IsADirectoryError as error:
        raise ImageError(
            f"disk {name} is a directory; give a raw image or a block device"
        ) from error
    except OSError as error:
        reason = _OPEN_REMEDIES.get(error.errno or 0, error.strerror)
        raise HostError(error.errno, f"disk {name}: {reason}") from error


def _reopen(fd: int, name: str, readonly: bool) -> int:
    """Return a duplicate, checked for the right to write."""
    try:
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
    except OSError as error:
        raise HostError(error.errno, f"disk {name} is not an open descriptor") from error
    if access == os.O_WRONLY or (access == os.O_RDONLY and not readonly):
        os.close(own)
        have = "writing only" if access == os.O_WRONLY else "reading only"
        remedy = "open it O_RDWR" + ("" if access == os.O_WRONLY else ", or give readonly=True")
        raise HostError(errno.EBADF, f"disk {name} is open for {have}; {remedy}")
    return own


def _check_kind(fd: int, name: str) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"disk {name} is a directory; give a raw image or a block device")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ImageError(f"disk {name} is neither a regular file nor a block device")


#: Formats of disk images that are not raw: (offset of the magic, magic, name as qemu-img has it).
_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk Descriptor", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)
_FORMAT_HEAD = 68


def _refuse_formats(fd: int, name: str) -> None:
    """Raise ImageError for an image that is not raw."""
    try:
        head = os.pread(fd, _FORMAT_HEAD, 0)
    except OSError as error:
        raise HostError(error.errno, f"disk {name}: {error.strerror}") from error
    for offset, magic, kind in _FORMATS:
        if head.startswith(magic, offset):
            raise ImageError(
                f"disk {name} is a {kind} image, and only raw ones are read; convert it "
                f"(qemu-img convert -O raw {name} disk.raw), or give format=raw if those bytes are the guest's own"
            )


def _disk_size(fd: int, name: str) -> int:
    # Also right for block devices, whose st_size is 0. pread and pwrite ignore the position.
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size:
        raise ImageError(f"disk {name} is empty; give it a size with truncate -s 1G {name}")
    if size % SECTOR:
        raise ImageError(
            f"disk {name} has {size} bytes, not a multiple of {SECTOR}; only raw images are read. "
            f"Pad it with truncate -s %{SECTOR} {name}"
        )
    return size


def _lock(fd: int, name: str, readonly: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = "writing to it" if readonly else "using it"
        raise HostError(
            errno.EBUSY, f"disk {name} is in use: another process, maybe another VM, is {who}"
        ) from error
    except OSError as error:
        # Some network file systems have no locks; that is no reason not to run.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise HostError(error.errno, f"locking disk {name}: {error.strerror}") from error
