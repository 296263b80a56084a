# SPDX-License-Identifier: Apache-2.0
"""Tables of CPUID leaves, as `struct kvm_cpuid2 *`: `nent` entries in `entries`."""

from __future__ import annotations

from errno import E2BIG

from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.descriptor import checked

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

FIRST_GUESS = 64  # entries; current hosts have 30 to 60
MOST = 4096  # the kernel itself stops at 256
# An entry no kernel writes; the padding is clean, as KVM_GET_EMULATED_CPUID insists.
UNUSED = b"\xff" * 28 + bytes(12)


def new_cpuid(entries: Iterable[Any] = ()) -> Any:
    """Return a table of its own, copied from `struct kvm_cpuid_entry2` values, or dicts of their
    fields.
    """
    rows = [entry if isinstance(entry, dict) else _fields(entry) for entry in entries]
    return ffi.new("struct kvm_cpuid2 *", {"nent": len(rows), "entries": rows})


def _fields(entry: Any) -> dict[str, int]:
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    return {name: getattr(entry, name) for name in names}


def find_cpuid(table: Any, function: int, index: int = 0) -> Any:
    """Return the `struct kvm_cpuid_entry2` of a leaf, writable in place, or None.

    `index` counts only for leaves that have sub-leaves.
    """
    for i in range(table.nent):
        entry = table.entries[i]
        if entry.function != function:
            continue
        if entry.index == index or not entry.flags & lib.KVM_CPUID_FLAG_SIGNIFCANT_INDEX:
            return entry
    return None


def read_cpuid(fd: int, get: Callable[[int, Any], int], ioctl: str) -> Any:
    """Ask by `get`, the wrapper of `ioctl`, with a larger table until the answer fits.

    Raise KvmError for another refusal, and where `MOST` entries are too few. api.rst,
    KVM_GET_SUPPORTED_CPUID.

    """
    count = FIRST_GUESS
    while True:
        table = ffi.new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
        ffi.memmove(table.entries, UNUSED * count, len(UNUSED) * count)
        result = get(fd, table)
        if result != -E2BIG or count >= MOST:
            checked(result, ioctl)
            _trim(table)
            return table
        count *= 2


def _trim(table: Any) -> None:
    """Take off the entries that the kernel left alone: until Linux 6.1 at least, KVM_GET_CPUID2
    keeps `nent`.
    """
    while table.nent and bytes(ffi.buffer(table.entries + table.nent - 1, len(UNUSED))) == UNUSED:
        table.nent -= 1
