# SPDX-License-Identifier: Apache-2.0
"""Take a guest's answer apart, with suspicion: counts, sizes and text are the guest's to lie
about.
"""

from __future__ import annotations

import errno
import time

from pyvmm._core import ffi, lib
from pyvmm.errors import GuestDataError, SymcallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine.symcall import Raw, Results

#: How long a caller that can wait keeps asking a guest that says EAGAIN, and how long it sleeps in between, seconds.
PATIENCE = 1.0
PAUSE = 0.002

#: Bytes of a field that a newer guest may have added to a structure.
WORD = 8


def ask(raw: Raw, number: int, *args: int, want: int = 0) -> Results:
    """Make one call; EAGAIN of the guest is tried again for `PATIENCE` seconds if `raw` says it is
    `patient`.

    A hook's is not: as long as it runs, its vCPU cannot give back what the guest found locked.
    """
    deadline = None
    while True:
        try:
            return raw(number, *args, want=want)
        except SymcallError as error:
            again = error.reason == "error" and error.code == errno.EAGAIN
            if not (again and getattr(raw, "patient", False)):
                raise
            deadline = deadline or time.monotonic() + PATIENCE
            if time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE)


def structure(name: str, results: Results, what: str, least: int | None = None) -> Any:
    """Return the one structure that a call left in the data area, of include/symbiotic.h.

    RBX is its size, which its first field repeats. A larger one is a newer guest's: the fields
    known here come first. One of at least `least` bytes (default: all of them) is an older guest's:
    the fields that it lacks are 0. Raise GuestDataError for anything shorter.
    """
    found = ffi.new(f"struct {name} *")
    whole = ffi.sizeof(found[0])
    shortest = whole if least is None else least
    size, data = results.rbx, results.data
    if not shortest <= size <= lib.SYMBIOTIC_DATA_SIZE or size > len(data):
        raise GuestDataError(
            f"{what}: the guest answered with {size} bytes; there should be {shortest}"
            f" to {lib.SYMBIOTIC_DATA_SIZE}"
        )
    ffi.memmove(found, data, min(size, whole))
    inner = found.size
    if not shortest <= inner <= size:
        raise GuestDataError(f"{what}: the structure says it has {inner} of {size} bytes")
    if inner < whole:
        # The bytes behind it are left from before, and a field that is cut is none.
        end = inner // WORD * WORD
        ffi.buffer(found)[end:] = bytes(whole - end)
    return found


def known(value: int) -> int | None:
    """Return a 64-bit field, None if the guest says that it does not know (all ones)."""
    return None if value == lib.SYMBIOTIC_UNKNOWN else value


def text(raw: bytes) -> str:
    """Return a name up to its NUL, fit for a terminal.

    A process chooses its name and may put anything there: what is not UTF-8 or not printable comes
    as \\x1b is written.
    """
    name = raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
