# SPDX-License-Identifier: Apache-2.0
"""Memory of guests made up here: MEMORY, MEM_LOOKUP and READ."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.errors import ConfigError, GuestDataError, LimitError, SymcallError
from pyvmm.machine.symcall import Results
from pyvmm.symbiotic import calls, memory
from tests.support.typed_guest import MEMORY_LAYOUT, UNKNOWN, Raw, refusal, results, structure

# MEMORY.


def test_memory():
    raw = Raw(lambda *_: structure(MEMORY_LAYOUT, 4096, *range(1, 14), UNKNOWN))
    found = calls.read_memory(raw)
    assert (found.page_size, found.total, found.swap_cached) == (4096, 1, 10)
    assert (found.pswpin, found.pgmajfault) == (11, None)


# MEM_LOOKUP.


def test_lookup():
    raw = Raw(lambda *_: results(0x1000, 0x7000, 5))
    found = memory.lookup(raw, 0x1000, access=4)
    assert found == memory.Lookup(0x1000, 0x7000, 5)
    assert (found.readable, found.writable, found.executable) == (True, False, True)
    assert raw.calls == [(10, 0x1000, 0, 4)]


def test_lookup_that_is_refused():
    found = memory.lookup(Raw(lambda *_: results(0, 0, 1)), 0x1000, access=2)
    assert found == memory.Lookup(None, None, 1)


@pytest.mark.parametrize(("permissions", "vaddr"), [(1, 0), (0, None), (2, None)])
def test_lookup_of_address_zero(permissions, vaddr):
    assert memory.lookup(Raw(lambda *_: results(0, 0, permissions)), 0).vaddr == vaddr


@pytest.mark.parametrize("registers", [(0x2000, 0, 1), (0x1000, 0, 8), (0x1000, 0, 2**64 - 1)])
def test_lookup_that_cannot_be(registers):
    with pytest.raises(GuestDataError, match="0x1000"):
        memory.lookup(Raw(lambda *_: results(*registers)), 0x1000)


@pytest.mark.parametrize(
    "arguments", [(-1,), (2**64,), (0, -1), (0, 2**64), (0, 0, 0), (0, 0, 8), (0, 0, -1)]
)
def test_lookup_of_what_cannot_be(arguments):
    with pytest.raises(ConfigError):
        memory.lookup(Raw(lambda *_: results()), *arguments)


# READ.


class Space:
    """An address space that holds these bytes at this address."""

    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self.data = data

    def __call__(self, number: int, vaddr: int, length: int) -> Results:
        assert number == lib.SYMCALL_READ
        assert length <= lib.SYMBIOTIC_DATA_SIZE
        found = self.data[vaddr - self.start :][:length]
        if not found:
            raise refusal(errno.EFAULT)
        return results(len(found), data=found + b"left over")


@given(st.binary(min_size=1, max_size=20000), st.integers(0, 25000))
def test_read(data, length):
    found = memory.read(Raw(Space(2**63, data)), 2**63, length)
    assert found == data[:length]


def test_read_of_what_is_not_mapped():
    with pytest.raises(SymcallError):
        memory.read(Raw(Space(0, b"")), 0, 1)


@pytest.mark.parametrize("error", [refusal(errno.EINVAL), refusal(0, "deadline")])
def test_read_that_fails_half_way(error):
    def serve(_: int, vaddr: int, length: int) -> Results:
        if vaddr:
            raise error
        return results(length, data=bytes(length))

    with pytest.raises(SymcallError):
        memory.read(Raw(serve), 0, 4096)


@pytest.mark.parametrize("claim", [0, 11, 2**64 - 1])
def test_read_of_a_length_that_cannot_be(claim):
    with pytest.raises(GuestDataError, match=f"read {claim} of 10 bytes"):
        memory.read(Raw(lambda *_: results(claim, data=bytes(100))), 0, 10)


@pytest.mark.parametrize(
    ("vaddr", "length"), [(0, -1), (0, memory.MAX_READ + 1), (-1, 1), (2**64 - 1, 2), (2**64, 1)]
)
def test_read_of_what_cannot_be(vaddr, length):
    with pytest.raises(ConfigError):
        memory.read(Raw(lambda *_: results()), vaddr, length)


def test_read_up_to_the_last_byte():
    assert memory.read(Raw(Space(2**64 - 3, b"end")), 2**64 - 3, 3) == b"end"


def test_a_long_read_of_a_slow_guest(monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr("pyvmm.machine.question.time.monotonic", lambda: float(next(now)))
    raw = Raw(lambda number, at, length: results(length, data=b"x" * length))
    with pytest.raises(LimitError, match="longer than 10 s"):
        memory.read(raw, 0x1000, memory.MAX_READ)
