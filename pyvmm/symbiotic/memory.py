# SPDX-License-Identifier: Apache-2.0
"""Memory as the guest's kernel sees it: its statistics, a mapping, and bytes at a virtual address."""

from __future__ import annotations

import errno

from pyvmm._core import lib
from pyvmm.errors import ConfigError, GuestDataError, SymcallError
from pyvmm.machine.question import Question
from pyvmm.symbiotic.answer import ask, known, structure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.machine.symcall import Raw, Results
else:
    from pyvmm.record import NamedTuple

MAX_READ = 16 << 20
_SPACE = 1 << 64
_ACCESSES = lib.SYMBIOTIC_ACCESS_READ | lib.SYMBIOTIC_ACCESS_WRITE | lib.SYMBIOTIC_ACCESS_EXECUTE


class Memory(NamedTuple):
    """Statistics as in the guest's /proc/meminfo and /proc/vmstat, in bytes; None is what the guest
    cannot say.

    `pswpin`, `pswpout`, `pgfault` and `pgmajfault` count events since its boot. `page_size` is in
    bytes.
    """

    page_size: int
    total: int | None
    free: int | None
    available: int | None
    cached: int | None
    anonymous: int | None
    slab: int | None
    dirty: int | None
    swap_total: int | None
    swap_free: int | None
    swap_cached: int | None
    pswpin: int | None
    pswpout: int | None
    pgfault: int | None
    pgmajfault: int | None


class Lookup(NamedTuple):
    """How an address is mapped in the address space that a vCPU has loaded.

    `vaddr` is the address, None if the access that was asked for is not allowed. `pte_gpa` is the
    guest-physical address of the page table entry, None if there is none; `permissions` has the
    bits of `SYMBIOTIC_ACCESS_READ` and so on.
    """

    vaddr: int | None
    pte_gpa: int | None
    permissions: int

    @property
    def readable(self) -> bool:
        """True if the mapping lets it be read."""
        return bool(self.permissions & lib.SYMBIOTIC_ACCESS_READ)

    @property
    def writable(self) -> bool:
        """True if the mapping lets it be written."""
        return bool(self.permissions & lib.SYMBIOTIC_ACCESS_WRITE)

    @property
    def executable(self) -> bool:
        """True if the mapping lets it be executed."""
        return bool(self.permissions & lib.SYMBIOTIC_ACCESS_EXECUTE)


def parse(results: Results) -> Memory:
    """Return the answer to MEMORY, a `struct symbiotic_memory`. Raise GuestDataError if it is none."""
    said = structure("symbiotic_memory", results, "memory statistics")
    amounts = (known(getattr(said, name)) for name in Memory._fields[1:])
    return Memory(said.page_size, *amounts)


def lookup(raw: Raw, vaddr: int, pte: int = 0, access: int = lib.SYMBIOTIC_ACCESS_READ) -> Lookup:
    """Ask how `vaddr` is mapped, and whether `access` is allowed; with `pte` only if that is its
    page table entry.

    Raise SymcallError, ConfigError for an address or access that cannot be, GuestDataError for such
    an answer.
    """
    if not 0 <= vaddr < _SPACE:
        raise ConfigError(f"{vaddr:#x} is no 64-bit address")
    if not 0 <= pte < _SPACE:
        raise ConfigError(f"{pte:#x} is no 64-bit page table entry")
    if not access or access & ~_ACCESSES:
        raise ConfigError(f"access {access!r}: add up 1 (read), 2 (write) and 4 (execute)")
    answer = ask(raw, lib.SYMCALL_MEM_LOOKUP, vaddr, pte, access)
    if answer.rbx not in (0, vaddr):
        raise GuestDataError(
            f"memory lookup of {vaddr:#x}: the guest answered about {answer.rbx:#x}"
        )
    if answer.rdx & ~_ACCESSES:
        raise GuestDataError(f"memory lookup of {vaddr:#x}: unknown permissions {answer.rdx:#x}")
    # A zero is a refusal, unless it was asked about and the answer allows it.
    allowed = answer.rbx == vaddr and (vaddr != 0 or answer.rdx & access == access)
    return Lookup(vaddr if allowed else None, answer.rcx or None, answer.rdx)


def read(raw: Raw, vaddr: int, length: int) -> bytes:
    """Read bytes at a virtual address of the address space that the vCPU has loaded, in as many
    calls as it takes.

    At most `MAX_READ` bytes. The result is shorter where the next page is not mapped or not
    present: the guest may not wait for it in this context. If not even the first byte can be read,
    SymcallError with code EFAULT. Between the calls of a long read the guest runs on, unless a hook
    reads. Raise ConfigError for a range that cannot be, GuestDataError for an answer that is longer
    than what was asked for, or empty, LimitError for one that takes more than 10 s in total.
    """
    if not 0 <= length <= MAX_READ:
        raise ConfigError(f"a read of {length} bytes: at most {MAX_READ} at a time")
    if not 0 <= vaddr <= _SPACE - length:
        raise ConfigError(f"{length} bytes at {vaddr:#x} are not in a 64-bit address space")
    pieces: list[bytes] = []
    done = 0
    question = Question()
    while done < length:
        question.check()
        piece = min(length - done, lib.SYMBIOTIC_DATA_SIZE)
        data = _read_piece(raw, vaddr + done, piece, first=not done)
        pieces.append(data)
        done += len(data)
        if len(data) < piece:
            break
    return b"".join(pieces)


def _read_piece(raw: Raw, vaddr: int, length: int, *, first: bool) -> bytes:
    try:
        answer = ask(raw, lib.SYMCALL_READ, vaddr, length, want=length)
    except SymcallError as error:
        if first or error.reason != "error" or error.code != errno.EFAULT:
            raise
        return b""
    if not 0 < answer.rbx <= min(length, len(answer.data)):
        raise GuestDataError(
            f"read at {vaddr:#x}: the guest says it read {answer.rbx} of {length} bytes"
        )
    return answer.data[: answer.rbx]
