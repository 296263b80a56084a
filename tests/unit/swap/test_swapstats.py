# SPDX-License-Identifier: Apache-2.0
"""What a guest says of its swap disk, read with suspicion."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.errors import ConfigError, GuestDataError
from pyvmm.machine.symcall import Results
from pyvmm.symbiotic import swapstats
from pyvmm.symbiotic.swapstats import GuestSwap

WORDS = 30
u32 = st.integers(0, (1 << 32) - 1)


def answer(data: bytes, size: int | None = None) -> Results:
    length = len(data) if size is None else size
    return Results(length, 0, 0, 0, 0, data.ljust(lib.SYMBIOTIC_DATA_SIZE, b"\xff"))


def packed(words: list[int], flags: int = 0) -> bytes:
    return struct.pack(f"<II{len(words)}Q", 8 + 8 * len(words), flags, *words)


def test_every_field_in_its_place() -> None:
    stats = swapstats.parse(answer(packed(list(range(1, WORDS + 1)), 5)))
    assert stats == GuestSwap(
        mapped=True,
        on=False,
        evicting=True,
        tier=False,
        slots=1,
        used=2,
        adopted=3,
        offered=4,
        adopted_total=5,
        mapped_by_vmm=6,
        refused_shared=7,
        refused_mode=8,
        refused_vmm=9,
        refused_reasons=(10, 11, 12, 13, 14, 15, 16, 17),
        lost_races=18,
        freed=19,
        evicted=20,
        evict_failed=21,
        pages_out=22,
        pages_in=23,
        zero_filled=24,
        moved_ahead=25,
        moved_behind=26,
        move_failed=27,
        follow_missed=28,
        discarded=29,
        mover_ns=30,
    )


@given(st.integers(0, WORDS + 40), st.integers(0, 15), st.integers(0, 7))
def test_a_kernel_that_knows_less_or_more(count: int, flags: int, rest: int) -> None:
    words = list(range(1, count + 1))
    data = struct.pack("<II", 8 + 8 * count + rest, flags) + packed(words)[8:] + bytes(rest)
    stats = swapstats.parse(answer(data))
    known = [*words[:WORDS], *[0] * (WORDS - count)]
    flat: list[int] = []
    for value in stats[4:]:
        flat += value if isinstance(value, tuple) else [value]
    assert flat == known
    assert stats[:4] == tuple(bool(flags >> n & 1) for n in range(4))


@given(u32, st.integers(0, (1 << 64) - 1), st.binary(max_size=lib.SYMBIOTIC_DATA_SIZE))
def test_anything_at_all(inner: int, size: int, data: bytes) -> None:
    results = answer(struct.pack("<I", inner) + data[4:], size)
    good = 8 <= inner <= size <= lib.SYMBIOTIC_DATA_SIZE
    try:
        stats: Any = swapstats.parse(results)
    except GuestDataError:
        assert not good
    else:
        assert good
        assert all(0 <= value < 1 << 64 for value in stats if isinstance(value, int))


def test_calls() -> None:
    made: list[tuple[int, ...]] = []

    def raw(number: int, *args: int, want: int = 0) -> Results:
        made.append((number, *args, want))
        return Results(7, 0, 0, 0, 0, b"")

    assert swapstats.swap_evict(raw, 100) == 7
    assert made == [(lib.SYMCALL_SWAP_EVICT, 100, 0)]
    for pages in (0, -1, 1 << 64):
        with pytest.raises(ConfigError):
            swapstats.swap_evict(raw, pages)
    with pytest.raises(GuestDataError):
        swapstats.swap_stats(raw)
    assert made[1:] == [(lib.SYMCALL_SWAP_STATS, lib.SYMBIOTIC_DATA_SIZE)]
