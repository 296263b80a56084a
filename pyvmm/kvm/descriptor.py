# SPDX-License-Identifier: Apache-2.0
"""One open KVM descriptor: its owner closes it once, whatever happens."""

from __future__ import annotations

from os import close as _close

from pyvmm.errors import StateError
from pyvmm.kvm._kvm import lib
from pyvmm.kvm.errors import KvmCapabilityMissing, error_of

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


def checked(result: int, ioctl: str, detail: str = "") -> int:
    """Return the result of an ioctl wrapper; raise what `error_of` makes of a negative one."""
    if result < 0:
        raise error_of(ioctl, -result, detail)
    return result


def capability_name(capability: int) -> str:
    """Return the KVM_CAP_ name of a number, or the number itself when these headers do not know it."""
    for name in dir(lib):
        if name.startswith("KVM_CAP_") and getattr(lib, name) == capability:
            return name
    return f"KVM_CAP number {capability}"


class Descriptor:
    """A file descriptor with one owner.

    A context manager; closed at the latest when it is collected.
    """

    _fd = -1

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open descriptor. Raise StateError after close()."""
        if self._fd < 0:
            raise StateError(f"this {type(self).__name__} is closed: open or create another")
        return self._fd

    def fileno(self) -> int:
        """Return the same as `fd`, for select and its like."""
        return self.fd

    @property
    def closed(self) -> bool:
        """True once close() has happened."""
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, StateError):  # closed behind our back, or in use: nobody is left to tell
            pass

    def check_extension(self, capability: int) -> int:
        """Ask KVM about a KVM_CAP_ number: 0 is no, else 1 or a quantity (KVM_CHECK_EXTENSION)."""
        return checked(lib.kvm_check_extension(self.fd, capability), "KVM_CHECK_EXTENSION")

    def require(self, capability: int, purpose: str) -> int:
        """Ask as check_extension does; raise KvmCapabilityMissing when the answer is no."""
        value = self.check_extension(capability)
        if value <= 0:
            raise KvmCapabilityMissing(capability_name(capability), purpose)
        return value

    def _offered(self, result: int, ioctl: str, capability: int, purpose: str) -> int:
        """Check as `checked` does, for an ioctl that exists only with a capability.

        The capability is asked for after a failure alone, so that the usual case costs one system
        call.
        """
        if result < 0:
            self.require(capability, purpose)
        return checked(result, ioctl)
