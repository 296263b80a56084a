# SPDX-License-Identifier: Apache-2.0
"""The program's own standard streams: closed ones, full ones, and names that they have no letters
for.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

from pyvmm.errors import HostError
from pyvmm.launch import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The name of the way in which `_encode` is asked for.
WAY = "pyvmm"


def prepare() -> None:
    """Make all three usable, before anything else is opened.

    A closed stdin would otherwise become the number of /dev/kvm or of the guest's memory. What is
    written to a closed standard output fails, as it did when the output was closed.
    """
    for fd, access in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, access)
    codecs.register_error(WAY, _encode)
    errors = sys.stderr
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Errors(2, "w", closefd=False)),
        encoding=errors.encoding if errors else None,
        errors="backslashreplace",
        line_buffering=True,
    )
    given = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=given.encoding if given else None,
        errors=WAY,
        line_buffering=os.isatty(1) or getattr(given, "write_through", False),
    )


class _Errors(io.FileIO):
    """Standard error. What it does not take cannot be told to anybody, and changes no status."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data))


class OutputError(HostError):
    """Standard output takes no more, for another reason than that its reader has gone.

    `finish` says so.
    """


class _Output(io.FileIO):
    """Standard output, whose errors are told from all others.

    A reader that has gone is a BrokenPipeError.
    """

    error: OutputError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            _Output.error = OutputError(error.errno, f"standard output: {error.strerror}")
            raise _Output.error from error


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return bytes of a file's name as they are, letters that the encoding lacks as \\\\xe9 or
    \\\\u0416.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return letter.encode("utf-8", "surrogateescape"), error.start + 1
    return letter.encode("ascii", "backslashreplace"), error.start + 1


def finish(code: int) -> int:
    """Write what is left, and say what could not be; return the status that is left of `code` by
    that.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up()
        return code or status.BROKEN_PIPE
    except OutputError:
        _give_up()
    if _Output.error is None:
        return code
    print(f"pyvmm: {_Output.error}", file=sys.stderr)
    return code or status.HOST


def code_of(end: SystemExit) -> int:
    """Return the status that an exit asks for; one with a text has 1, and the text goes to standard
    error.
    """
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
        return 1
    return end.code or 0


def _give_up() -> None:
    """Drop what is left, which the interpreter would write again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
