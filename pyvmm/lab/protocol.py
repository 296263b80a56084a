# SPDX-License-Identifier: Apache-2.0
"""The frames that the host and the lab's first process (init/) send each other over one port.

A frame is one byte of type, four bytes of length (little endian) and the payload. One stream for
everything keeps the order: what the command printed last is here before its exit status is.

=====  ==========  =========  ========================================================
type   name        direction  payload
=====  ==========  =========  ========================================================
``S``  setup       to lab     strings: seconds, nanoseconds, then verbs (see ``setup``)
``R``  run         to lab     strings: folder, tty, rows, columns, counted argv, counted env
``I``  stdin       to lab     bytes; none at all: end of file
``W``  winsize     to lab     strings: rows, columns
``Q``  end         to lab     none
``H``  hello       to host    none: the port works
``Y``  ready       to host    none: commands may come
``O``  out         to host    bytes of the command's standard output
``E``  err         to host    bytes of its standard error
``C``  credit      to host    u32: so many bytes of stdin may be sent again
``X``  exit        to host    i32: the exit status, 128+n for signal n
``F``  fail        to host    text: why the lab gives up
``B``  bye         to host    none: everything is written back, the machine may go
=====  ==========  =========  ========================================================
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEADER = struct.Struct("<cI")
STDIN_WINDOW = 65536  # bytes of stdin that may be on the way, STDIN_ROOM of init/port.h
LARGEST = 1 << 16  # no frame from the lab is longer: it sends in chunks of 16 KiB

SETUP, RUN, STDIN, WINSIZE, END = b"S", b"R", b"I", b"W", b"Q"
HELLO, READY, OUT, ERR, CREDIT, EXIT, FAIL, BYE = b"H", b"Y", b"O", b"E", b"C", b"X", b"F", b"B"


class Frame(NamedTuple):
    """One message."""

    type: bytes
    payload: bytes

    def number(self) -> int:
        """Return the payload of an exit or credit frame."""
        if len(self.payload) != 4:
            raise LabError(f"the lab sent a malformed frame of type {self.type!r}")
        return int.from_bytes(self.payload, "little", signed=self.type == EXIT)


def frame(type: bytes, payload: bytes = b"") -> bytes:
    """Return a frame as it goes over the port: a byte for its type, its length, the payload."""
    return HEADER.pack(type, len(payload)) + payload


def strings(values: Sequence[str | int]) -> bytes:
    """Encode values as zero-terminated strings, in the file system's encoding."""
    return b"".join(os.fsencode(str(value)) + b"\0" for value in values)


def setup(verbs: Sequence[Sequence[str]], now_ns: int) -> bytes:
    """Return the setup frame.

    Verbs: ``share TAG PATH`` mounts a writable share of the host at its own path, ``overlay PATH``
    shows a host directory that a tmpfs hides, ``modules PATH RELEASE`` makes modprobe work, and
    ``load FILE OPTIONS`` loads a module of the initramfs.
    """
    flat = [str(now_ns // 10**9), str(now_ns % 10**9)]
    for verb in verbs:
        flat.extend(verb)
    return frame(SETUP, strings(flat))


def run(
    command: Sequence[str], env: Mapping[str, str], folder: str, size: tuple[int, int] | None
) -> bytes:
    """Return the run frame; ``size`` is rows and columns of the terminal that the command gets, if
    any.
    """
    rows, columns = size or (0, 0)
    flat: list[str | int] = [folder, int(size is not None), rows, columns]
    flat += [len(command), *command, len(env)]
    flat += [f"{name}={value}" for name, value in env.items()]
    return frame(RUN, strings(flat))


class Decoder:
    """Cuts the byte stream from the lab into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with ``data``.

        Raise LabError for a length that no frame has: the stream is not ours, or out of step.
        """
        self._bytes += data
        while len(self._bytes) >= HEADER.size:
            type, length = HEADER.unpack_from(self._bytes)
            if length > LARGEST:
                raise LabError(f"the lab sent a frame of {length} bytes: the stream is broken")
            end = HEADER.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[HEADER.size : end])
            del self._bytes[:end]
            yield Frame(type, payload)
