# SPDX-License-Identifier: Apache-2.0
"""The caller's side of a command's standard streams: descriptors that are never waited for blindly."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any, Protocol

from pyvmm.lab.errors import LabError

if TYPE_CHECKING:
    from typing import TypeAlias

PIPE_ROOM = 4096  # what a pipe that polls as writable takes without blocking (PIPE_BUF)


class Writer(Protocol):
    """Anything that takes bytes, as io.BytesIO does."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""


if TYPE_CHECKING:
    Stream: TypeAlias = int | IO[Any] | Writer | None


def descriptor(stream: object, standard: int) -> int | None:
    """Return the file descriptor behind a stream argument, as subprocess reads it: None is our own.

    None comes back for an object without one, and for subprocess.DEVNULL.
    """
    if stream is None:
        return standard
    if isinstance(stream, int):
        return None if stream == subprocess.DEVNULL else stream
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None


def is_open(fd: int) -> bool:
    """Return whether a descriptor exists at all; a daemon may run without standard streams."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Sink:
    """Where one output of the command goes."""

    def __init__(self, stream: Stream, standard: int) -> None:
        self.pending = bytearray()
        self.fd = descriptor(stream, standard)
        self._writer: Writer | None = None
        if self.fd is None:
            if stream != subprocess.DEVNULL:
                self._writer = stream  # type: ignore[assignment]
        elif not is_open(self.fd):
            self.fd = None
        elif stream is None:
            flush(sys.stdout if standard == 1 else sys.stderr)
        else:
            flush(stream)

    def take(self, data: bytes) -> None:
        """Accept bytes; those for a descriptor wait until `drain`."""
        if self.fd is not None:
            self.pending += data
        elif self._writer is not None:
            self._writer.write(data)

    def drain(self) -> None:
        """Write once, after poll(2) said that it will not block.

        Raise BrokenPipeError when nobody reads any more, LabError when it cannot be written for
        another reason.
        """
        assert self.fd is not None
        try:
            written = os.write(self.fd, self.pending[:PIPE_ROOM])
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise
        except OSError as error:
            raise LabError(
                error.errno, f"what the command wrote is lost: {error.strerror}"
            ) from error
        del self.pending[:written]


class Source:
    """Where the command's input comes from."""

    def __init__(self, stream: Stream, window: int) -> None:
        self.fd = descriptor(stream, 0)
        if self.fd is not None and not is_open(self.fd):
            self.fd = None
        self.ended = False
        self.credit = window

    def wants(self) -> bool:
        """Return whether there may be more input, and the lab has room for it."""
        return not self.ended and self.credit > 0

    def read(self) -> bytes:
        """Read what there is, at most as much as the lab can take; empty at the end."""
        data = b"" if self.fd is None else self._read(self.fd)
        self.ended = not data
        self.credit -= len(data)
        return data

    def _read(self, fd: int) -> bytes:
        try:
            return os.read(fd, min(self.credit, 16384))
        except OSError:  # a directory, or a terminal that hung up
            return b""


def flush(stream: object) -> None:
    """Let what Python has buffered for a stream go before what the command prints."""
    try:
        stream.flush()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        pass


def ready(wanted: dict[int, int], seconds: float | None) -> dict[int, int]:
    """Poll once (poll(2)); return descriptor to the events that it has, of those it is asked for.

    Regular files are always ready.
    """
    poll = select.poll()
    for fd, events in wanted.items():
        poll.register(fd, events)
    milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
    return dict(poll.poll(milliseconds))
