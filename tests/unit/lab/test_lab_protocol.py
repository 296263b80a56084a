# SPDX-License-Identifier: Apache-2.0
"""Frames between the host and the lab's first process."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.lab import LabError, protocol


@given(
    st.lists(st.tuples(st.sampled_from([b"O", b"E", b"X"]), st.binary(max_size=300))),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_survive_any_cut(frames: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(protocol.frame(type, payload) for type, payload in frames)
    decoder = protocol.Decoder()
    got: list[protocol.Frame] = []
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += decoder.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert [tuple(frame) for frame in got] == frames


def test_an_oversized_frame_is_refused() -> None:
    with pytest.raises(LabError, match="stream is broken"):
        list(protocol.Decoder().feed(struct.pack("<cI", b"O", 0xFFFFFFFF)))


def test_numbers() -> None:
    assert protocol.Frame(protocol.EXIT, struct.pack("<i", 137)).number() == 137
    assert protocol.Frame(protocol.CREDIT, struct.pack("<I", 0xFFFFFFFF)).number() == 0xFFFFFFFF
    with pytest.raises(LabError, match="malformed"):
        protocol.Frame(protocol.EXIT, b"\0").number()


def test_run_frame() -> None:
    made = protocol.run(["ls", "", "-l"], {"A": "b=c"}, "/a b", (24, 80))
    assert made[:1] == protocol.RUN
    words = [b"/a b", b"1", b"24", b"80", b"3", b"ls", b"", b"-l", b"1", b"A=b=c", b""]
    assert made[5:] == b"\0".join(words)


def test_run_frame_keeps_undecodable_bytes() -> None:
    made = protocol.run(["\udcff"], {}, "/", None)
    assert b"1\0\xff\0" in made


def test_setup_frame() -> None:
    made = protocol.setup([("share", "share0", "/p"), ("load", "/m.ko", "")], 1_500_000_001)
    assert made[5:] == b"1\x00500000001\0share\0share0\0/p\0load\0/m.ko\0\0"
