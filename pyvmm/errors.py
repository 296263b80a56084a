# SPDX-License-Identifier: Apache-2.0
"""The exceptions every layer shares. Each also is the built-in exception a caller would expect."""

from __future__ import annotations


class Error(Exception):
    """Anything pyvmm raises on purpose.

    The message says what was wrong, with what, and what to do about it.
    """


class HostError(Error, OSError):
    """The host refused: a missing device node, a permission, an ioctl's errno, a resource that ran
    out.
    """

    def __str__(self) -> str:
        """Return the sentence, and the file if one is named; the number is in `errno`."""
        if not self.strerror:
            return super().__str__()
        return f"{self.strerror}: {self.filename}" if self.filename else self.strerror


class ConfigError(Error, ValueError):
    """An option or a combination of options that cannot work."""


class ImageError(Error, ValueError):
    """A kernel, initrd or disk image that is truncated, malformed or of the wrong kind; names the
    file.
    """


class GuestMemoryError(Error, ValueError):
    """A guest-physical range that does not lie inside one region of guest memory."""


class StateError(Error, RuntimeError):
    """A call that does not fit the state of the virtual machine (running, paused, closed)."""


class GuestDataError(Error, ValueError):
    """Something the guest answered that cannot be true: a size, a count, an address. Says which."""


class LimitError(Error, RuntimeError):
    """An answer that would take more time or memory in total than one may: the guest is slow, or it
    lies.
    """


class SymcallError(Error):
    """A call into the guest kernel that did not come back with results.

    `reason` is one of absent, disabled, active, invalid, deadline, fault, nested, stopped, error,
    host; `code` is the guest's errno for "error", the host's for "host", else 0.
    """

    def __init__(self, message: str, reason: str, code: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
